"""Run the experiment: train and measure every method on every seed, resuming earlier runs."""

from __future__ import annotations

import io
import multiprocessing
import os
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .compared import METHODS, SETTINGS_SEEDS
from .presets import EXPERIMENTS, WORLDS
from .results import MEASURES, Results

if TYPE_CHECKING:
    from .examination import Examination


@dataclass(frozen=True)
class Task:
    """What one process does at a time: all methods on one seed of one kind of world."""

    out: Path
    preset: str
    world: str
    seed: int
    methods: tuple[str, ...]
    cache_dir: Path | None


def run_experiment(
    out: str | Path,
    seeds: Sequence[int],
    *,
    worlds: Sequence[str] = WORLDS,
    preset: str = "full",
    methods: Sequence[str] | None = None,
    jobs: int = 1,
    cache_dir: str | Path | None = None,
) -> Path:
    """Train and measure methods on seeds, and write each result as soon as it is finished.

    Methods that already have a result with the same settings in the folder are skipped; a killed run loses only the
    method that was running.

    Parameters
    ----------
    out : str or Path
        Gets ``results.json``, ``selective.json``, ``runs/`` with what the figures need, and ``models/``.
    seeds : sequence of int
        Seeds of the world, the model and the data.
    worlds : sequence of str, default ("fixed", "shuffled")
        With options in a fixed order, or in a random one.
    preset : str, default "full"
        Key of `experiments.presets.EXPERIMENTS`.
    methods : sequence of str, optional
        Keys of `experiments.compared.METHODS`; all of them by default.
    jobs : int, default 1
        Number of processes, each with its own seed on one thread.
    cache_dir : str or Path, optional
        Where pre-trained models are kept; see `hf_calib.lab.pretrained_folder`.

    Returns
    -------
    Path
        Of the results file.

    Raises
    ------
    ValueError
        For an unknown preset, world or method, no seed or a negative one, fewer than one job, or a folder that has
        results of another preset.
    """
    names = tuple(METHODS) if methods is None else tuple(methods)
    check_names("preset", [preset], EXPERIMENTS)
    check_names("world", worlds, WORLDS)
    check_names("method", names, METHODS)
    check_seeds_and_jobs(seeds, jobs)
    out = Path(out)
    results = Results(out)
    results.check_preset(preset)
    tasks = [
        Task(out, preset, world, seed, names, None if cache_dir is None else Path(cache_dir))
        for seed in seeds
        for world in worlds
    ]
    run_all(run_task, tasks, jobs)
    return results.file


def check_seeds_and_jobs(seeds: Sequence[int], jobs: int) -> None:
    """Raise a ValueError for no seed, one twice or a negative one, or for fewer than one job."""
    if not seeds or min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds must be different numbers, at least one and none negative; got {list(seeds)}")
    if jobs < 1:
        raise ValueError(f"jobs must be at least 1, got {jobs}")


def check_names(what: str, given: Sequence[str], known: Collection[str]) -> None:
    """Raise a ValueError for a name that is unknown, or if there is none."""
    if not given:
        raise ValueError(f"give at least one {what}; there are {', '.join(known)}")
    for name in given:
        if name not in known:
            raise ValueError(f"there is no {what} {name!r}; there are {', '.join(known)}")


def run_all(work: Callable[[Any], None], tasks: Sequence[Any], jobs: int) -> None:
    """Do the same work on each task, in this process for one job, otherwise in one process per job."""
    if jobs == 1:
        for task in tasks:
            work(task)
        return
    with (
        _environment(OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false"),
        ProcessPoolExecutor(
            jobs, mp_context=multiprocessing.get_context("spawn"), initializer=_end_with_parent
        ) as pool,
    ):
        futures = [pool.submit(work, task) for task in tasks]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _end_with_parent() -> None:
    """End this process when its parent is killed; otherwise it would finish its seed."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    """Set environment variables for the processes that are started inside the context."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def run_task(task: Task) -> None:
    """Run the missing methods of a task."""
    from hf_calib.lab.bench import make_bench
    from hf_calib.lab.cache import cache_key
    from hf_calib.lab.pretraining import pretrained_folder

    from .examination import Examination
    from .experiment import method_is_made_of
    from .selective import FILES as SELECTIVE_FILES

    preset = EXPERIMENTS[task.preset][task.world]
    results, selective = Results(task.out), Results(task.out, **SELECTIVE_FILES)
    with quietly_on_one_thread():
        _say(task, "pre-trained model")
        folder = pretrained_folder(preset, task.seed, cache_dir=task.cache_dir, progress=False)
        keys = {
            name: cache_key({"preset": task.preset, **method_is_made_of(name, preset, folder, task.seed)})
            for name in task.methods
        }
        missing = [name for name in task.methods if not results.has(task.world, task.seed, name, keys[name])]
        for name in missing:
            results.drop(task.world, task.seed, name)
        if not missing:
            _say(task, "nothing is missing")
            return
        with tempfile.TemporaryDirectory(prefix="hf-calib-lab-") as work:
            bench = make_bench(preset, task.seed, folder, Path(work), progress=False)
            examination = Examination(bench, task.out / "models")
            for name in missing:
                begun = time.perf_counter()
                # Without a progress bar, transformers prints its logs.
                try:
                    with redirect_stdout(io.StringIO()):
                        run = measured(task, name, examination)
                except Exception as error:
                    _say(task, f"{name} failed: {error}")
                    raise
                about = {"key": keys[name], "preset": task.preset}
                selective.add({**about, "rows": run.pop("selective")})
                results.add({**about, **run})
                _say(task, f"{name}, {time.perf_counter() - begun:.0f} s")


@contextmanager
def quietly_on_one_thread() -> Iterator[None]:
    """Set torch to one thread, which is fastest for models this small, and turn off libraries' progress bars."""
    import datasets
    import torch
    from transformers.utils import logging

    datasets.disable_progress_bars()
    logging.disable_progress_bar()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _say(task: Task, text: str) -> None:
    print(f"{task.world}, seed {task.seed}: {text}", flush=True)


def measured(task: Task, name: str, examination: Examination) -> dict[str, Any]:
    """Train and measure a method.

    Parameters
    ----------
    task : Task
    name : str
        Key of `METHODS`.
    examination : Examination

    Returns
    -------
    dict
        ``rows``, one for each domain; ``selective``, those of ``selective.json``; and by domain ``statistics``, the
        bins of the confidence, ``bayes_accuracy``, that of someone who knows the true probabilities, and, where the
        confidence is the model's own, how the options' log-odds compare to the pre-trained model's: ``sharpening``
        (else None) and ``log_odds`` (else left out; see `log_odds_histogram`).
    """
    from hf_calib.lab.preferences import MULTIPLE_CHOICE, OPEN
    from hf_calib.reports.paired import sharpening

    from .log_odds import log_odds_histogram
    from .methods import fitted_calibrator
    from .readings import READINGS
    from .selective import selective_rows

    method, bench = METHODS[name], examination.bench
    before, own = examination.of(None), examination.of(method.model)
    seconds, training, calibrator = own.seconds, own.training, None
    if method.calibrator is not None:
        begun = time.process_time()
        fitted_on = {
            "none": lambda: bench.data.prompts.to_questions(answers=False),
            "held_out": bench.data.held_out.to_questions,
            "all": bench.data.labeled,
        }[method.fitted_on]()
        calibrator = fitted_calibrator(bench, own.model, method.calibrator, fitted_on)
        seconds += time.process_time() - begun
    answers = own.test
    if calibrator is not None:
        training = training.calibrated(calibrator)
        answers = {domain: predictions.calibrated(calibrator) for domain, predictions in own.test.items()}
    if method.reading is not None:
        begun = time.process_time()
        read = READINGS[method.reading](examination, own.model)
        seconds += time.process_time() - begun
        answers = {domain: read(examination.test[domain], predictions) for domain, predictions in own.test.items()}
    run: dict[str, Any] = {"rows": [], "statistics": {}, "sharpening": {}, "bayes_accuracy": {}}
    for domain, predictions in answers.items():
        questions = bench.data.test[domain]
        if calibrator is None and method.reading is None:
            sharper = sharpening(before.test[domain], predictions)
            run["sharpening"][domain] = {"slope": sharper.slope.value, "r_squared": sharper.r_squared}
            run.setdefault("log_odds", {})[domain] = log_odds_histogram(before.test[domain], predictions)
        else:
            run["sharpening"][domain] = None
        report = predictions.report(true_probabilities=questions.true_probabilities, n_resamples=0, groups=None)
        run["statistics"][domain] = report.statistics.to_dict()
        run["bayes_accuracy"][domain] = questions.bayes_accuracy
        run["rows"].append(
            {
                "seed": task.seed,
                "reported": task.seed not in SETTINGS_SEEDS,
                "world": task.world,
                "method": name,
                "domain": domain,
                "n": report.n,
                **{measure: float(report.measures[measure].value) for measure in MEASURES},
                "win_rate": own.wins[MULTIPLE_CHOICE],
                "win_rate_open": own.wins[OPEN],
                "train_accuracy": float(training.correct.mean()),
                "labels": method.labels(bench.preset),
                "seconds": round(seconds, 3),
            }
        )
    run["selective"] = selective_rows(run["rows"], answers)
    return run
