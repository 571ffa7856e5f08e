"""Run a sweep: one setting varied on a few seeds of the fixed world, resuming earlier runs."""

from __future__ import annotations

import io
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from hf_calib.confidence import Predictions, predict
from hf_calib.lab.bench import Bench, calibration_aware_dpo, make_bench, merged
from hf_calib.lab.cache import cache_key
from hf_calib.lab.data import LabData, sample_training_questions
from hf_calib.lab.preferences import MULTIPLE_CHOICE, OPEN
from hf_calib.lab.pretraining import pretrained_folder
from hf_calib.lab.world import LabQuestions

from .compared import COMPARED, SETTINGS_SEEDS
from .examination import Asked, Examination
from .experiment import MODELS, code_digest, method_is_made_of, trained
from .methods import fitted_calibrator
from .presets import EXPERIMENTS, ExperimentPreset
from .results import Results
from .run import MEASURES, check_names, check_seeds_and_jobs, quietly_on_one_thread, run_all
from .sweeps import BASELINES, SWEEPS, WORLD, Change, measured_steps, results_files, sweep_preset


@dataclass(frozen=True)
class SweepTask:
    """The task of one process: all points of one method on one seed, or for ``None`` what all methods share."""

    out: Path
    sweep: str
    preset: str
    seed: int
    method: str | None
    cache_dir: Path | None


def run_sweep(
    out: str | Path,
    sweep: str,
    seeds: Sequence[int],
    *,
    preset: str = "full",
    methods: Sequence[str] | None = None,
    jobs: int = 1,
    cache_dir: str | Path | None = None,
) -> Path:
    """Vary one setting, and write each point's rows as soon as they are finished.

    Points that already have a result with the same settings in the folder are skipped.

    Parameters
    ----------
    out : str or Path
        Gets ``sweep_<name>.json``, a list of rows with the keys `experiments.sweeps.SWEEP_KEYS`, the folder
        ``sweep_<name>_runs`` that it is made from, and ``models/``.
    sweep : str
        Key of `experiments.sweeps.SWEEPS`.
    seeds : sequence of int
        Seeds of the world, the model and the data.
    preset : str, default "full"
        Key of `experiments.presets.EXPERIMENTS`.
    methods : sequence of str, optional
        Of the sweep's methods; all of them by default.
    jobs : int, default 1
        Number of processes, each on one thread.
    cache_dir : str or Path, optional
        Where pre-trained models are kept; see `hf_calib.lab.pretrained_folder`.

    Returns
    -------
    Path
        Of the results file.

    Raises
    ------
    ValueError
        For an unknown sweep, preset or method, no seed or a negative one, fewer than one job, or a folder that has
        results of another preset.
    """
    check_names("sweep", [sweep], SWEEPS)
    names = SWEEPS[sweep].methods if methods is None else tuple(methods)
    check_names("method", names, SWEEPS[sweep].methods)
    check_names("preset", [preset], EXPERIMENTS)
    check_seeds_and_jobs(seeds, jobs)
    out = Path(out)
    results = Results(out, **results_files(sweep))
    results.check_preset(preset)
    cache = None if cache_dir is None else Path(cache_dir)

    def tasks(wanted: Iterable[str | None]) -> list[SweepTask]:
        return [SweepTask(out, sweep, preset, seed, name, cache) for name in wanted for seed in seeds]

    # The model that every method starts from comes first; otherwise two processes would train it at the same time.
    run_all(run_sweep_task, tasks([None]), jobs)
    run_all(run_sweep_task, tasks(names), jobs)
    return results.file


def run_sweep_task(task: SweepTask) -> None:
    """Run what is missing of a task."""
    preset = sweep_preset(task.preset)
    results = Results(task.out, **results_files(task.sweep))
    with quietly_on_one_thread():
        folder = pretrained_folder(preset, task.seed, cache_dir=task.cache_dir, progress=False)
        points = _points(task)
        keys = {point: _key(task, *point, preset, folder) for point in points}
        missing = [point for point in points if not results.has(WORLD, task.seed, _name(task, *point), keys[point])]
        for point in missing:
            results.drop(WORLD, task.seed, _name(task, *point))
        if not missing:
            _say(task, f"nothing is missing of {task.method or ' and '.join(BASELINES)}")
            return
        with tempfile.TemporaryDirectory(prefix="hf-calib-lab-") as work:
            bench = make_bench(preset, task.seed, folder, Path(work), progress=False)
            examination = Examination(bench, task.out / "models")
            for point in missing:
                begun = time.perf_counter()
                # Without a progress bar, transformers prints its logs.
                try:
                    with redirect_stdout(io.StringIO()):
                        rows = _rows(task, *point, examination)
                except Exception as error:
                    _say(task, f"{_name(task, *point)} failed: {error}")
                    raise
                run = {"key": keys[point], "preset": task.preset, "name": _name(task, *point), "rows": rows}
                results.add(run)
                _say(task, f"{_name(task, *point)}, {time.perf_counter() - begun:.0f} s")


def _say(task: SweepTask, text: str) -> None:
    print(f"sweep {task.sweep}, seed {task.seed}: {text}", flush=True)


def _points(task: SweepTask) -> list[tuple[str, float]]:
    """Return the points of the task, each a method and a value; the value is 0 if one run gives all of them."""
    if task.method is None:
        return [(name, 0) for name in BASELINES]
    return [(task.method, x) for x in SWEEPS[task.sweep].points(task.preset) or (0,)]


def _name(task: SweepTask, method: str, x: float) -> str:
    return method if x == 0 else f"{method}-{x:g}"


def _change(task: SweepTask, method: str, x: float, preset: ExperimentPreset) -> Change:
    change = SWEEPS[task.sweep].change
    return Change(preset, {}) if x == 0 or change is None else change(method, preset, x)


def _key(task: SweepTask, method: str, x: float, preset: ExperimentPreset, folder: Path) -> str:
    change = _change(task, method, x, preset)
    made_of = {
        "preset": task.preset,
        "terms": dict(change.terms),
        "code": code_digest(["experiments/sweeps.py"]),
        **method_is_made_of(method, change.preset, folder, task.seed),
    }
    return cache_key(made_of)


def _rows(task: SweepTask, method: str, x: float, examination: Examination) -> list[dict[str, Any]]:
    bench = examination.bench
    if task.sweep == "training" and method not in BASELINES:
        return _rows_of_training(task, method, examination)
    change = _change(task, method, x, bench.preset)
    there = replace(bench, preset=change.preset, data=with_questions_of(bench.data, change.preset, bench.seed))
    recipe = COMPARED[method]
    if recipe.model in (None, "dpo"):
        own = examination.of(recipe.model)
    else:
        own = _trained_there(recipe.model, there, examination, change)
    seconds, calibrator = own.seconds, None
    if recipe.calibrator is not None:
        begun = time.process_time()
        data = there.data
        questions = data.labeled() if recipe.fitted_on == "all" else data.prompts.to_questions(answers=False)
        calibrator = fitted_calibrator(there, own.model, recipe.calibrator, questions)
        seconds += time.process_time() - begun
    training = predict(own.model, bench.tokenizer, there.data.calibration.to_questions(), batch_size=512)
    test = dict(own.test)
    if calibrator is not None:
        training = training.calibrated(calibrator)
        test = {domain: said.calibrated(calibrator) for domain, said in test.items()}
    return [
        _row(
            task,
            method,
            x,
            domain,
            said,
            bench.data.test[domain],
            training,
            win_rate=own.wins[MULTIPLE_CHOICE],
            win_rate_open=own.wins[OPEN],
            labels=recipe.labels(change.preset),
            seconds=round(seconds, 3),
        )
        for domain, said in test.items()
    ]


def with_questions_of(data: LabData, preset: ExperimentPreset, seed: int = 0) -> LabData:
    """Redraw the calibration questions with another preset's sizes; pairs and test questions stay the same."""
    return replace(data, **sample_training_questions(preset, data.world, seed))


def _trained_there(name: str, there: Bench, examination: Examination, change: Change) -> Asked:
    """Train a model with the settings of one point, from the model that the whole sweep starts from."""
    recipe = MODELS[name]
    start = trained(recipe.start, examination.bench, examination.models) if recipe.start else None
    begun = time.process_time()
    if change.terms:
        labeled = there.data.labeled() if COMPARED[name].labels(there.preset) else ()
        model = calibration_aware_dpo(there, labeled, **change.terms).model
    else:
        model = recipe.train(there, start and start.model)
    seconds = time.process_time() - begun + (start.seconds if start else 0.0)
    return examination.about(merged(model), seconds)


def _rows_of_training(task: SweepTask, method: str, examination: Examination) -> list[dict[str, Any]]:
    bench = examination.bench
    model = COMPARED[method].model
    assert model is not None
    recipe = MODELS[model]
    start = trained(recipe.start, bench, examination.models)
    steps = (bench.preset.fine_tuning if method == "cft" else bench.preset.long).steps
    watch = _Watch(task, method, examination, measured_steps(steps))
    watch.measure(0, start.model)
    recipe.train(replace(bench, callbacks=(watch,)), start.model)
    return watch.rows


class _Watch(TrainerCallback):
    """Asks the model the test and training questions at some steps of its training."""

    def __init__(self, task: SweepTask, method: str, examination: Examination, steps: Sequence[int]) -> None:
        self.task, self.method, self.examination = task, method, examination
        self.steps = frozenset(steps)
        self.rows: list[dict[str, Any]] = []

    def measure(self, step: int, model: Any) -> None:
        """Add the rows of a step."""
        bench = self.examination.bench
        training = self.examination.training.predictions(model)
        labels = COMPARED[self.method].labels(bench.preset)
        for domain, questions in bench.data.test.items():
            said = self.examination.test[domain].predictions(model)
            self.rows.append(_row(self.task, self.method, step, domain, said, questions, training, labels=labels))

    def on_step_end(self, args, state, control, model=None, **kwargs):
        """Measure at the requested steps."""
        if state.global_step in self.steps:
            self.measure(state.global_step, model)


def _row(
    task: SweepTask,
    method: str,
    x: float,
    domain: str,
    said: Predictions,
    questions: LabQuestions,
    training: Predictions,
    *,
    win_rate: float | None = None,
    win_rate_open: float | None = None,
    labels: int,
    seconds: float | None = None,
) -> dict[str, Any]:
    report = said.report(true_probabilities=questions.true_probabilities, n_resamples=0, groups=None)
    return {
        "seed": task.seed,
        "reported": task.seed not in SETTINGS_SEEDS,
        "world": WORLD,
        "sweep": task.sweep,
        "method": method,
        "x": x,
        "domain": domain,
        "n": report.n,
        **{measure: float(report.measures[measure].value) for measure in MEASURES},
        "bayes_accuracy": questions.bayes_accuracy,
        "train_accuracy": float(training.correct.mean()),
        "train_confidence": float(training.confidences.mean()),
        "win_rate": win_rate,
        "win_rate_open": win_rate_open,
        "labels": labels,
        "seconds": seconds,
    }
