"""Run the comparison of confidence in free-form answers, continuing where an earlier run stopped."""

from __future__ import annotations

import io
import json
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM

from hf_calib.lab.cache import cache_key, cached_folder, library_versions
from hf_calib.lab.pretraining import make_world, pretrained_folder
from hf_calib.lab.tokenizer import make_tokenizer
from hf_calib.measures import CATALOG
from hf_calib.reports import render_table
from hf_calib.reports.table import Cell

from .claims import Claim, claims_table, difference, share
from .compared import SETTINGS_SEEDS
from .experiment import LIBRARIES, code_digest
from .free_form import (
    DOMAINS,
    METHODS,
    MODELS,
    READINGS,
    SETTINGS,
    FreeFormBench,
    FreeFormSettings,
    Reading,
    read,
    with_temperature,
)
from .results import Results, load_rows
from .run import check_names, check_seeds_and_jobs, quietly_on_one_thread, run_all
from .sweep_report import mean_over_seeds

WORLD = "free-form"
MEASURES = ("accuracy", "confidence", "ece", "ece_true", "tce", "brier", "auroc")
KEYS = ("seed", "reported", "world", "method", "reading", "domain", "n", *MEASURES, "seconds")
"""The keys of a row, in order. The seconds are those of training, from the model that it starts from."""

FILES: dict[str, Any] = {"file": "free_form.json", "runs": "free_form_runs", "row_keys": KEYS}
REPORT_FILE = "free_form.md"
TEMPERATURE = "+temperature"
# The models that a temperature is fitted to.
_WITH_TEMPERATURE = ("pretrained", "grpo")
_SOURCES = (
    "experiments/free_form.py",
    "evaluation/self_evaluation.py",
    "regularizers/anchor.py",
    "regularizers/supervised.py",
    "rewards.py",
    "trainers/calibration_term.py",
    "trainers/recalibration.py",
    "trainers/stated_confidence.py",
)

LEGEND = (
    "mean over seeds with its 95% interval. TCE: mean distance of the confidence from the true probability of the "
    "answer given. `grpo` is rewarded for right answers only, `grpo-brier` for the confidence stated in the reply too "
    "(RLCR); the last three start from `grpo` and train one reading on its graded answers."
)
TITLES = {"trained": "relations of the training questions", "unseen": "other relations"}
READING_TITLES = {
    "stated": "Confidence stated in the reply",
    "levels": "Mean level after the answer",
    "p-true": "P(True)",
    "agreement": "Agreement of samples",
}

TRAINED = {
    "grpo-brier": "stated",
    "stated-levels": "levels",
    "self-evaluation": "p-true",
    "self-evaluation-anchor": "p-true",
}
"""The methods that train confidence, with the reading that each trains."""


@dataclass(frozen=True)
class FreeFormTask:
    """What one process does at a time: all models on one seed."""

    out: Path
    preset: str
    settings: FreeFormSettings
    seed: int
    methods: tuple[str, ...]
    cache_dir: Path | None


def run_free_form(
    out: str | Path,
    seeds: Sequence[int],
    *,
    preset: str = "full",
    settings: FreeFormSettings | None = None,
    methods: Sequence[str] = METHODS,
    jobs: int = 1,
    cache_dir: str | Path | None = None,
) -> Path:
    """Train the models, and measure every reading of their confidence in free-form answers.

    Models that already have a result with the same settings in the folder are skipped; trained ones are kept there.

    Parameters
    ----------
    out : str or Path
        Gets ``free_form.json``, a list of rows with the keys `KEYS`, and the folders ``free_form_runs`` and
        ``free_form_models``.
    seeds : sequence of int
        Seeds of the world, the models and the data.
    preset : str, default "full"
        Key of `experiments.free_form.SETTINGS`.
    settings : FreeFormSettings, optional
        Instead of the preset's.
    methods : sequence of str, optional
        Of `experiments.free_form.METHODS`; all of them by default.
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
        For an unknown preset or method, no seed or a negative one, fewer than one job, or a folder that has results
        of another preset.
    """
    check_names("preset", [preset], SETTINGS)
    check_names("method", methods, METHODS)
    check_seeds_and_jobs(seeds, jobs)
    out = Path(out)
    results = Results(out, **FILES)
    results.check_preset(preset)
    chosen = SETTINGS[preset] if settings is None else settings
    cache = None if cache_dir is None else Path(cache_dir)
    names = tuple(name for name in METHODS if name in methods)
    run_all(run_free_form_task, [FreeFormTask(out, preset, chosen, seed, names, cache) for seed in seeds], jobs)
    return results.file


def run_free_form_task(task: FreeFormTask) -> None:
    """Run what is missing of a task."""
    results, preset = Results(task.out, **FILES), task.settings.preset
    with quietly_on_one_thread(), tempfile.TemporaryDirectory(prefix="hf-calib-lab-") as work:
        folder = pretrained_folder(preset, task.seed, cache_dir=task.cache_dir, progress=False)
        key = cache_key(
            {
                "settings": asdict(task.settings),
                "pretrained": folder.name,
                "code": code_digest(_SOURCES),
                "libraries": library_versions(LIBRARIES),
            }
        )
        missing = [name for name in task.methods if not results.has(WORLD, task.seed, name, key)]
        for name in missing:
            results.drop(WORLD, task.seed, name)
        tokenizer, world = make_tokenizer(free_form=True), make_world(preset, task.seed)
        bench = FreeFormBench(task.settings, world, folder, tokenizer, Path(work), task.seed)
        for name in missing:
            begun = time.perf_counter()
            # transformers prints what it logs where it shows no progress bar.
            with redirect_stdout(io.StringIO()):
                rows = _rows(bench, name, *_trained(bench, name, task.out / "free_form_models", key))
            results.add({"key": key, "preset": task.preset, "rows": rows})
            print(f"free-form, seed {task.seed}: {name}, {time.perf_counter() - begun:.0f} s", flush=True)


def _trained(bench: FreeFormBench, name: str, models: Path, key: str) -> tuple[Any, float]:
    """Return a model, trained unless the folder has it already, and the processor time of its training."""
    if name == "pretrained":
        return bench.pretrained(), 0.0
    recipe = MODELS[name]

    def make(folder: Path) -> None:
        start, before = _trained(bench, recipe.start, models, key)
        begun = time.process_time()
        recipe.train(bench, start).save_pretrained(folder)
        seconds = before + time.process_time() - begun
        (folder / "seconds.json").write_text(json.dumps(seconds), encoding="utf-8")

    made_of = {"model": name, "seed": bench.seed, "key": key}
    folder = cached_folder(f"{name}-{cache_key(made_of)}", made_of, make, models)
    seconds = json.loads((folder / "seconds.json").read_text(encoding="utf-8"))
    return AutoModelForCausalLM.from_pretrained(folder), seconds


def _rows(bench: FreeFormBench, name: str, model: Any, seconds: float) -> list[dict[str, Any]]:
    """Measure every reading of a model, and each with a temperature too where the method is one to repair."""
    rows = []
    for reading in READINGS:
        measured = [read(bench, model, bench.test(domain), reading) for domain in DOMAINS]
        found = {name: measured}
        if name in _WITH_TEMPERATURE:
            found[name + TEMPERATURE] = with_temperature(bench, model, reading, measured)
        for method, of_domains in found.items():
            rows += [
                _row(bench.seed, method, reading, domain, own, seconds)
                for domain, own in zip(DOMAINS, of_domains, strict=True)
            ]
    return rows


def _row(seed: int, method: str, reading: str, domain: str, own: Reading, seconds: float) -> dict[str, Any]:
    report = own.predictions.report(true_probabilities=own.true_probabilities, n_resamples=0, groups=None)
    return {
        "seed": seed,
        "reported": seed not in SETTINGS_SEEDS,
        "world": WORLD,
        "method": method,
        "reading": reading,
        "domain": domain,
        "n": report.n,
        **{measure: float(report.measures[measure].value) for measure in MEASURES},
        "seconds": round(seconds, 3),
    }


def _claims() -> Iterable[Claim]:
    for reading in ("stated", "levels", "p-true"):
        before, after = _name("pretrained", reading), _name("grpo", reading)
        yield difference(f"{after}: ECE", after, before, "ece", "trained", 0.0)
    for method, reading in TRAINED.items():
        own, grpo = _name(method, reading), _name("grpo", reading)
        yield share(f"{own}: ECE", own, grpo, "ece", "trained", 0.25)
        yield difference(f"{own}: accuracy", own, grpo, "accuracy", "trained", -0.01)
        yield difference(f"{own}: AUROC", own, grpo, "auroc", "trained", 0.0)


def _name(method: str, reading: str) -> str:
    return f"{method} ({reading})"


def free_form_report(folder: str | Path, *, all_seeds: bool = False) -> str:
    """Write ``free_form.md``: means over seeds with 95% intervals, a table per domain and reading, and the claims.

    Parameters
    ----------
    folder : str or Path
        With the ``free_form.json`` that `run_free_form` writes.
    all_seeds : bool, default False
        Whether to include the seeds that settings were chosen on.

    Raises
    ------
    FileNotFoundError
        If the folder has no results.
    ValueError
        If there are none to report.
    """
    folder = Path(folder)
    rows = [row for row in load_rows(folder / FILES["file"], KEYS) if all_seeds or row["reported"]]
    if not rows:
        chosen_on = ", ".join(map(str, SETTINGS_SEEDS))
        raise ValueError(
            f"{folder / FILES['file']} has only seeds that settings were chosen on ({chosen_on}); run others, or give "
            "--all-seeds (all_seeds=True) to report these"
        )
    columns = ("accuracy", "ece", "tce", "brier", "auroc")
    order = [method for name in METHODS for method in (name, name + TEMPERATURE)]
    lines = ["# Confidence in free-form answers", ""]
    lines += [f"Seeds {', '.join(map(str, sorted({row['seed'] for row in rows})))}; {LEGEND}", ""]
    for domain, title in TITLES.items():
        for reading in READINGS:
            table: list[dict[str, Cell]] = []
            for method in order:
                own = [
                    row for row in rows if (row["method"], row["reading"], row["domain"]) == (method, reading, domain)
                ]
                if own:
                    means: dict[str, Cell] = {CATALOG[key].short: mean_over_seeds(own, key) for key in columns}
                    table.append({"method": method, "seeds": len(own), **means})
            lines += [f"## {READING_TITLES[reading]}, {title}", "", "```", render_table(table), "```", ""]
    named = [{**row, "method": _name(row["method"], row["reading"])} for row in rows]
    checked = claims_table(named, tuple(_claims()))
    if checked:
        lines += ["## What it was to show", "", "```", checked, "```", ""]
    text = "\n".join(lines).rstrip() + "\n"
    (folder / REPORT_FILE).write_text(text, encoding="utf-8")
    return text
