"""Working through many requests: batches, progress, journals, several processes, and running out of memory."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from .journal import Journal

if TYPE_CHECKING:
    from ..tasks import PromptFormat, Question

Work = Callable[[Sequence[int]], Sequence[Any]]

# Where the batch size is "auto": as many as are tried first; halved while memory does not hold them.
AUTO_BATCH_SIZE = 64


@dataclass
class Asking:
    """How requests are worked through.

    Parameters
    ----------
    batch_size : int or "auto", default 16
        Requests per forward. "auto" begins with 64 and halves it when memory runs out.
    progress : bool, default False
        Show a progress bar, or print a line at intervals if the output is not a terminal.
    journal : Journal, optional
        Holds previous answers, and records new ones.
    process_index, num_processes : int
        The index and number of processes that share the work; each gets all outcomes. Several need an initialized
        `torch.distributed`.
    part : str, default ""
        Prefix of the stages' names in the journal.
    hidden_states : bool, default False
        Also keep the hidden states at the letters' position, for calibrators that take features; only for local
        models.

    Attributes
    ----------
    asked_first : list
        The first question, its format, and whether its options are listed; empty before it is asked. Copies share it.

    Raises
    ------
    ValueError
        If the batch size is below 1.
    """

    batch_size: int | str = 16
    progress: bool = False
    journal: Journal | None = None
    process_index: int = 0
    num_processes: int = 1
    part: str = ""
    hidden_states: bool = False
    asked_first: list[tuple[Question, PromptFormat, bool]] = field(default_factory=list, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.batch_size != "auto" and (not isinstance(self.batch_size, int) or self.batch_size < 1):
            raise ValueError(f'the batch size must be at least 1, or "auto"; got {self.batch_size!r}')

    @property
    def largest_batch(self) -> int:
        """What batches are planned with."""
        return AUTO_BATCH_SIZE if isinstance(self.batch_size, str) else self.batch_size

    def for_part(self, name: str) -> Asking:
        """Return a copy for one part of a run, with separate stages."""
        part = replace(self, part=self.part + name)
        part.asked_first = self.asked_first
        return part

    def note(self, questions: Sequence[Question], prompt_format: PromptFormat, *, list_options: bool = True) -> None:
        """Remember the first question that is asked, so that its prompt can be shown with the results."""
        if questions and not self.asked_first:
            self.asked_first.append((questions[0], prompt_format, list_options))

    def run(
        self, stage: str, batches: Sequence[Sequence[int]], work: Work, *, wait: Callable[[], None] | None = None
    ) -> list[Any]:
        """Do a stage's work.

        Parameters
        ----------
        stage : str
            Its name, a word that is unique in a run.
        batches : sequence of sequence of int
            The numbers of the requests, 0 to n - 1, each once.
        work : callable
            Maps a batch's numbers to their outcomes, as JSON values.
        wait : callable, optional
            Called once this process's share is done, before the processes exchange their outcomes.

        Returns
        -------
        list
            The outcomes by number; on every process all of them.
        """
        key = self.part + stage
        outcomes = {} if self.journal is None else self.journal.read(key)
        n = sum(map(len, batches))
        mine = [
            [number for number in batch if number not in outcomes]
            for index, batch in enumerate(batches)
            if index % self.num_processes == self.process_index
        ]
        limit = self.largest_batch
        with progress_bar(stage, sum(map(len, mine)), n, self.progress and self.process_index == 0) as advance:
            for batch in mine:
                start = 0
                while start < len(batch):
                    part = batch[start : start + limit]
                    try:
                        done = dict(zip(part, work(part), strict=True))
                    except Exception as error:
                        # A smaller batch gives the same outcomes, so running out of memory is not reported.
                        if self.batch_size != "auto" or len(part) == 1 or not out_of_memory(error):
                            raise
                        limit = len(part) // 2
                        continue
                    if self.journal is not None:
                        self.journal.append(key, done)
                    outcomes.update(done)
                    start += len(part)
                    advance(len(part))
        if wait is not None:
            wait()
        if self.num_processes > 1:
            from accelerate.utils import gather_object

            for share in gather_object([outcomes]):
                outcomes.update(share)
        return [outcomes[number] for number in range(n)]


def out_of_memory(error: Exception) -> bool:
    """Whether an error means that memory ran out, on any device."""
    from accelerate.utils.memory import should_reduce_batch_size

    return isinstance(error, MemoryError) or should_reduce_batch_size(error)


@contextmanager
def progress_bar(stage: str, remaining: int, n: int, show: bool) -> Iterator[Callable[[int], Any]]:
    """Return a function that advances a progress bar over the requests, or does nothing."""
    if not show or not remaining:
        yield lambda count: None
        return
    from tqdm.auto import tqdm

    how: dict[str, Any] = {"delay": 1}
    if not (sys.stderr.isatty() or _in_notebook()):
        how = {"file": _Lines(), "mininterval": 30}  # a log file gets whole lines, one every half minute
    with tqdm(total=n, initial=n - remaining, desc=stage.replace("_", " "), unit="question", **how) as bar:
        yield bar.update


def _in_notebook() -> bool:
    return "ipykernel" in sys.modules


class _Lines:
    """A stream that writes a progress bar's states as separate lines."""

    def write(self, text: str) -> None:
        if text.strip("\r\n "):
            print(text.strip("\r\n "), file=sys.stderr)

    def flush(self) -> None:
        sys.stderr.flush()
