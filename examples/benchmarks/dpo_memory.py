"""
Compare the memory of a calibration-aware DPO step, also with a separate backward of the terms, with plain DPO's.

```bash
python examples/benchmarks/dpo_memory.py
```

This counts the peak bytes of all tensors that autograd keeps for the backward in two steps, without the weights. It is
the same on every device, and does not depend on the allocator. With the terms it may not exceed the sum of plain DPO's
and the question batch's own; with `separate_backward` it must stay within 5% of plain DPO's. The exit status is 1
if a case is out of bounds. The sizes are those of dpo_step.py, whose options it takes.
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

SEPARATE_MARGIN = 1.05
TOGETHER_MARGIN = 1.01  # some rows of logits, which a large vocabulary and a tiny model make visible


class HeldActivations:
    """Counts what autograd keeps for the backward while it is active.

    Parameters
    ----------
    model : torch.nn.Module
        Its weights are not counted.

    Attributes
    ----------
    most : int
        Peak number of bytes.
    """

    def __init__(self, model) -> None:
        import torch

        self.most = self.held = 0
        self._uses: Counter[int] = Counter()
        self._weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda kept: kept.tensor)

    def _pack(self, tensor):
        # Without its history: an operation that keeps its own output would otherwise keep itself, through this hook.
        return _Kept(self, tensor.detach())

    def add(self, tensor, times: int) -> None:
        """Add or remove a use of a tensor's memory; memory that several tensors share is counted once."""
        storage = tensor.untyped_storage()
        key = storage.data_ptr()
        if key in self._weights:
            return
        before = self._uses[key]
        self._uses[key] += times
        if before == 0 or self._uses[key] == 0:
            self.held += times * storage.nbytes()
        self.most = max(self.most, self.held)

    def __enter__(self):
        self._hooks.__enter__()
        return self

    def __exit__(self, *details) -> None:
        self._hooks.__exit__(*details)


class _Kept:
    def __init__(self, held: HeldActivations, tensor) -> None:
        self.held, self.tensor = held, tensor
        held.add(tensor, 1)

    def __del__(self) -> None:
        self.held.add(self.tensor, -1)


def measure(folder: Path, options, data, lora: bool) -> dict:
    """Return a row of the table, in megabytes."""
    from dpo_step import make_trainer

    def held(case, **settings):
        trainer = make_trainer(folder, folder / "out", options, data, lora, case, **settings)
        with HeldActivations(trainer.model) as activations:
            trainer.train()
        return activations.most / 1e6, trainer

    case = "anchor, supervised"
    plain, _ = held(None)
    together, trainer = held(case)
    apart, _ = held(case, separate_backward=True)
    trainer.model.train()
    with HeldActivations(trainer.model) as questions:
        loss = trainer._calibration_term.loss(trainer.model, 0, 0, 1)
    alone = questions.most / 1e6
    del loss
    within = together <= TOGETHER_MARGIN * (plain + alone) and apart <= SEPARATE_MARGIN * plain
    return {
        "weights": "LoRA" if lora else "full",
        "DPO (MB)": plain,
        "questions alone": alone,
        "with terms": together,
        "separate_backward": apart,
        "separate / DPO": apart / plain,
        "within": "yes" if within else "NO",
    }


def main() -> int:
    """Measure both kinds of weights and print the table; the exit status says whether all are within bounds."""
    from dpo_step import make_data, parse_arguments, save_model

    options = parse_arguments(__doc__)
    options.steps = 1
    import torch

    from hf_calib.reports import render_table

    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_model(folder, options)
        data = make_data(options)
        rows = [measure(folder, options, data, weights == "LoRA") for weights in options.weights]
    print(render_table(rows))
    return 0 if all(row["within"] == "yes" for row in rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
