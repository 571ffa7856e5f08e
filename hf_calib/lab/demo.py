"""The demo: align, measure and recalibrate a small model, and report the results."""

from __future__ import annotations

import json
import logging
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, TextIO

import torch
from accelerate.utils import is_peft_model

from ..confidence import Predictions, predict
from ..evaluation import diagnose
from ..hub import DatasetReference, Evaluation, write_card
from ..measures import CATALOG, CalibrationReport
from ..reports import ReliabilityDisplay, render_table
from ..reports.checks import checked
from .bench import (
    calibration_aware_dpo,
    calibration_aware_fine_tuning,
    fitted_temperature,
    make_bench,
    plain_dpo,
)
from .names import Domain
from .presets import PRESETS, LabPreset
from .pretraining import pretrained_folder
from .win_rate import PreferenceTest

# Each model's name in the table, the diagram and the cards.
PRETRAINED = "Pre-trained"
DPO = "DPO"
DPO_TEMPERATURE = "DPO + temperature scaling"
UNLABELED = "CA-DPO, no labels"
LABELED = "CA-DPO, labels"
CFT = "DPO, then CFT"
LEGEND = """\
CA-DPO: calibration-aware DPO. CFT: calibration-aware fine-tuning.
ECE: expected calibration error of the confidence, 10 bins.
TCE: mean distance of the confidence from the true probability, known here.
Win rate: share of held-out pairs whose chosen answer is the more probable one."""

# The table's columns, by the report's measures; results.json holds all measures.
COLUMNS = {key: CATALOG[key].short for key in ("accuracy", "confidence", "ece", "tce")}
COLUMNS["ece"] += " [95% interval]"
DOMAINS: dict[Domain, str] = {"in": "in-domain", "out": "out-of-domain"}
DOMAIN_NOTES: dict[Domain, str] = {
    "in": "In domain: subjects of the calibration questions",
    "out": "Out of domain: subjects with unanswered prompts only",
}
LOG_FILE = "training.log"


def run_demo(
    out: str | Path, *, preset: str = "demo", seed: int = 0, cache_dir: str | Path | None = None
) -> dict[str, dict[str, CalibrationReport]]:
    """Run the main job and write the results into a folder.

    Parameters
    ----------
    out : str or Path
        Gets `results.json`, `results.txt`, `reliability_diagram.png` and `.svg`, `training.log` with what the
        libraries print, the pre-trained model in `lab-base-model/`, and in `adapter/` the adapter of
        calibration-aware DPO without labels with its card. A preset that trains the full weights saves the model in
        `model/`. With a preset other than "demo", the pre-trained model's folder is named after it too.
    preset : str, default "demo"
        Key of `hf_calib.lab.PRESETS`.
    seed : int, default 0
    cache_dir : str or Path, optional
        Where the pre-trained model is kept; inside `out` by default.

    Returns
    -------
    dict of str to dict of str to CalibrationReport
        By method, then by domain.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    print(f"Training log: {out / LOG_FILE}\n", flush=True)
    with quiet(out / LOG_FILE) as terminal:
        results, text, saved = _run(out, PRESETS[preset], preset, seed, cache_dir, terminal)
    print(f"\n{text}\n\nWrote to {out} in {time.perf_counter() - started:.0f} s:")
    print(f"  {saved.name}/  the model {UNLABELED!r} with its model card")
    print("  reliability_diagram.png, reliability_diagram.svg, results.json, results.txt")
    return results


@contextmanager
def quiet(path: Path) -> Iterator[TextIO]:
    """Send what libraries print, log and warn to a file; yield the standard output that was replaced."""
    terminal = sys.stdout
    shown = {id(stream) for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)}
    loggers = [
        logging.root,
        *(own for own in logging.root.manager.loggerDict.values() if isinstance(own, logging.Logger)),
    ]
    with path.open("w", encoding="utf-8", buffering=1) as log, redirect_stdout(log), redirect_stderr(log):
        # Handlers made at import hold the stream that was the standard error then.
        moved = [
            (handler, handler.setStream(log))
            for handler in {handler for own in loggers for handler in own.handlers}
            if isinstance(handler, logging.StreamHandler) and id(handler.stream) in shown
        ]
        try:
            yield terminal
        finally:
            for handler, stream in moved:
                handler.setStream(stream)


def _run(
    out: Path, settings: LabPreset, preset: str, seed: int, cache_dir: str | Path | None, terminal: TextIO
) -> tuple[dict[str, dict[str, CalibrationReport]], str, Path]:
    """Run the five steps; return the reports, the tables, and the folder of the model with the card."""

    @contextmanager
    def step(number: int, text: str) -> Iterator[None]:
        print(f"{number}/5  {text + ' ':.<66} ", end="", file=terminal, flush=True)
        begun = time.perf_counter()
        yield
        print(f"{time.perf_counter() - begun:.0f} s", file=terminal, flush=True)

    results: dict[str, dict[str, CalibrationReport]] = {}
    wins: dict[str, dict[str, float]] = {}

    def measure(name: str, model: Any, calibrator: Any = None) -> None:
        results[name] = {}
        for domain in DOMAINS:
            asked = bench.data.test[domain]
            questions = asked.to_questions()
            predictions: Predictions = predict(model, bench.tokenizer, questions, batch_size=512)
            if calibrator is not None:
                predictions = predictions.calibrated(calibrator)
            report = predictions.report(true_probabilities=asked.true_probabilities, seed=seed)
            run = {"confidence": {"name": "letters"}}
            results[name][domain] = checked(predictions, report, run, questions)
        wins[name] = pairs.win_rate(model)

    with step(1, f"{PRETRAINED}: train a small model on a synthetic world"):
        folder = pretrained_folder(settings, seed, cache_dir=cache_dir or out / "cache", progress=False)
        # Saved under its own name in the output folder, since the adapter's configuration and card refer to it.
        base = out / ("lab-base-model" if preset == "demo" else f"lab-base-model-{preset}")
        shutil.rmtree(base, ignore_errors=True)
        folder = Path(shutil.copytree(folder, base))
        torch.manual_seed(seed)
        bench = make_bench(settings, seed, folder, out / "runs", progress=False)
        held_out = bench.data.held_out.to_questions()
        pairs = PreferenceTest(bench.tokenizer, bench.data.test_pairs)
        measure(PRETRAINED, bench.pretrained())
    with step(2, f"{DPO}: align it with TRL's DPOTrainer"):
        aligned: Any = plain_dpo(bench).model
        measure(DPO, aligned)
        measure(DPO_TEMPERATURE, aligned, fitted_temperature(bench, aligned))
    with step(3, f"{UNLABELED}: keep it calibrated, on unanswered prompts"):
        unlabeled: Any = calibration_aware_dpo(bench, evaluated_on=held_out)
        measure(UNLABELED, unlabeled.model)
    with step(4, f"{LABELED}: the same with some answered questions"):
        labeled = calibration_aware_dpo(bench, bench.data.calibration.to_questions(), evaluated_on=held_out)
        measure(LABELED, labeled.model)
    with step(5, f"{CFT}: repair {DPO} by fine-tuning on answered questions"):
        repaired = calibration_aware_fine_tuning(bench, aligned, settings.fine_tuning)
        measure(CFT, repaired.model)

    text = _write_results(out, results, wins, settings.n_test_pairs)
    trained_on, new = (questions.to_questions() for questions in (bench.data.prompts, bench.data.test["in"]))
    diagnosis = diagnose(
        *(predict(unlabeled.model, bench.tokenizer, asked, batch_size=512) for asked in (trained_on, new)),
        critical_accuracy=bench.data.test["in"].bayes_accuracy,
    )
    saved = out / ("adapter" if is_peft_model(unlabeled.model) else "model")
    _write_model(saved, f"hf-calib-{preset}", unlabeled, results, f"{diagnosis.regime}. {diagnosis.reasons}")
    shutil.rmtree(out / "runs", ignore_errors=True)
    return results, text, saved


def _write_results(
    out: Path, results: dict[str, dict[str, CalibrationReport]], wins: dict[str, dict[str, float]], n_pairs: int
) -> str:
    """Write the table, its data and the picture; return the table."""
    tables = []
    for domain, note in DOMAIN_NOTES.items():
        rows = []
        for name, reports in results.items():
            measures = reports[domain].measures
            row: dict[str, Any] = {"model": name}
            for key, column in COLUMNS.items():
                row[column] = measures[key] if key == "ece" else measures[key].value
            rows.append(row)
        n = next(iter(results.values()))[domain].n
        tables.append(f"{note} (n = {n:,})\n\n{render_table(rows)}")
    rows = [
        {"model": name, "multiple choice": won["multiple_choice"], "open": won["open"]} for name, won in wins.items()
    ]
    tables.append(f"Win rate (n = {n_pairs:,} held-out pairs of each kind)\n\n{render_table(rows)}\n\n{LEGEND}")
    text = "\n\n".join(tables)
    (out / "results.txt").write_text(text + "\n", encoding="utf-8")
    content = {
        name: {
            "win_rate": wins[name],
            **{domain: report.to_dict() for domain, report in reports.items()},
        }
        for name, reports in results.items()
    }
    (out / "results.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    display = ReliabilityDisplay.compare({name: results[name]["in"] for name in (PRETRAINED, DPO, UNLABELED)})
    for suffix in ("png", "svg"):
        display.save(out / f"reliability_diagram.{suffix}")
    return text


def _write_model(
    folder: Path, name: str, trainer: Any, results: dict[str, dict[str, CalibrationReport]], regime: str
) -> None:
    """Save the adapter or the model with a card that compares it to the pre-trained model and to DPO."""
    from dataclasses import replace

    from ..trainers.publishing import card_data

    trainer.save_model(str(folder))
    trainer.args.output_dir = str(folder)
    trainer.create_model_card(name)
    evaluations = tuple(
        Evaluation(
            DatasetReference("lab-questions", config, size=results[DPO][domain].n),
            {
                "base": results[PRETRAINED][domain],
                "before": results[DPO][domain],
                "temperature_scaled": results[DPO_TEMPERATURE][domain],
                "after": results[UNLABELED][domain],
            },
            in_domain=domain == "in",
        )
        for domain, config in DOMAINS.items()
    )
    data = card_data(trainer.calibration_run, trainer, name, license="apache-2.0", language="en")
    labels = {"base": PRETRAINED, "before": DPO, "after": f"{UNLABELED} (this model)"}
    card = replace(
        data,
        evaluations=evaluations,
        stage_labels=labels,
        regime=regime,
        preference_data=DatasetReference("lab-preference-pairs", size=len(trainer.train_dataset)),
        calibration_data=data.calibration_data and replace(data.calibration_data, name="lab-prompts"),
    )
    write_card(folder, card)
