"""The memory that tensors take, which is the same on every device and does not depend on the allocator."""

from __future__ import annotations

import weakref

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


class LiveMemory(TorchDispatchMode):
    """Counts the bytes of all tensors that are created while it is active, as long as they live.

    Attributes
    ----------
    held : int
        The current number of bytes.
    most : int
        The peak since the last `reset`.
    gathers, gathered : int
        The number of all-gathers since the last `reset`, and the bytes that they gathered.
    """

    def __init__(self) -> None:
        super().__init__()
        self.held = 0
        self._known: set[int] = set()
        self.reset()

    def reset(self) -> None:
        """Reset the counts; tensors that are alive still count."""
        self.most = self.held
        self.gathers = self.gathered = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Run an operation, and count its results."""
        result = func(*args, **(kwargs or {}))
        if "allgather" in func.name():
            self.gathers += 1
            # The first argument is the output.
            self.gathered += sum(t.nbytes for t in tree_iter(args[0]) if isinstance(t, torch.Tensor))
        for tensor in tree_iter(result):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor)
        return result

    def _count(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known or storage.device.type == "meta":
            return
        size = storage.nbytes()
        self._known.add(key)
        self.held += size
        self.most = max(self.most, self.held)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.held -= size
