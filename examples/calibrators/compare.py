"""All calibrators on real predictions and the lab's aligned models, in and out of domain, with few and many labels.

python examples/calibrators/compare.py --predictions predictions.npz --lab fixed --lab-seeds 3 --table comparison.csv

The file of predictions holds SET_logits (n, K), SET_labels (n,) and SET_features (n, d) for each set of questions.
--source names the sets of the domain to calibrate on, --target the shifted target. For the lab's models, the features
are the hidden states.
"""

import argparse
import csv
import io
import json
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import softmax
from scipy.stats import t as student

from hf_calib.calibrators import by_name, calibrator_class, names
from hf_calib.calibrators.protocol import BaseCalibrator
from hf_calib.measures import brier_score, expected_calibration_error, negative_log_likelihood, smooth_ece
from hf_calib.reports import render_table

SIZES = (30, 100, 300, 1000, 3000)
UNCALIBRATED = "none"
MEASURES = ("ECE", "smooth ECE", "NLL", "Brier", "accuracy")
TIMES = ("fit ms", "transform ms")
PAIRED_WITH, PAIRED = "temperature", ("NLL", "ECE")
SETTINGS = ("in domain", "shifted", "unlabeled target")
# With one model, the ensemble equals its base; votes exist only for sampled answers.
SAID_APART = ("ensemble", "sample_consistency")


@dataclass(frozen=True)
class Predictions:
    """One model's logits (n, K) on one domain, and other inputs that a calibrator may need."""

    logits: np.ndarray
    labels: np.ndarray
    features: np.ndarray | None = None
    reference: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows) -> "Predictions":
        parts = (self.logits, self.labels, self.features, self.reference)
        return Predictions(*(None if part is None else part[rows] for part in parts))


def measured(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Return the measures of one set of probabilities."""
    c, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    return {
        "ECE": expected_calibration_error(c, correct),
        "smooth ECE": smooth_ece(c, correct).value,
        "NLL": negative_log_likelihood(probabilities, labels),
        "Brier": brier_score(probabilities, labels),
        "accuracy": float(correct.mean()),
    }


def applicable(name: str, data: Predictions) -> bool:
    """Return whether a calibrator can be fitted on the available inputs."""
    kind = calibrator_class(name)
    if not issubclass(kind, BaseCalibrator) or (kind.needs_features and data.features is None):
        return False
    return name != "reference_agreement" or data.reference is not None


def fitted(name: str, source: Predictions, target: Predictions | None) -> tuple[Any, dict[str, Any]]:
    """Fit a calibrator, with the target's unanswered questions if it takes them."""
    calibrator = by_name(name)
    logits, labels, features = source.logits, source.labels, source.features
    uses_features = calibrator.needs_features or (calibrator.takes_unlabeled and features is not None)
    if name == "reference_agreement":
        labels = source.reference
        if target is not None:
            logits = np.concatenate([logits, target.logits])
            labels = np.concatenate([labels, target.reference])
    elif calibrator.takes_unlabeled and not (name == "auto" and target is None):
        unlabeled = source if target is None else target
        logits = np.concatenate([logits, unlabeled.logits])
        labels = np.concatenate([labels, np.full(len(unlabeled), -1)])
        if features is not None:
            features = np.concatenate([features, unlabeled.features])
    calibrator.fit(logits, labels, features=features if uses_features else None)
    return calibrator, {"features": True} if calibrator.needs_features else {}


def compare(source: Predictions, target: Predictions, sizes, seeds: int, chosen) -> list[dict]:
    """Return a row for each calibrator, number of labels, seed and setting.

    The source's questions are shuffled with each seed and split into those to fit on and those to test on; half of the
    target's questions are the unlabeled sample, the other half is tested on. Settings: "in domain", "shifted" (tested
    on the target, without knowledge of it) and "unlabeled target" (given its questions without answers).
    """
    rows = []
    most = max(size for size in sizes if size < len(source))
    for seed in range(seeds):
        order = np.random.default_rng(seed).permutation(len(source))
        pool, test = source[order[:most]], source[order[most:]]
        shuffled = np.random.default_rng(seed).permutation(len(target))
        seen, new = target[shuffled[: len(target) // 2]], target[shuffled[len(target) // 2 :]]
        for setting, data in (("in domain", test), ("shifted", new)):
            rows.append({"calibrator": UNCALIBRATED, "labels": 0, "seed": seed, "setting": setting,
                         **measured(softmax(data.logits, axis=1), data.labels),
                         "tested on": len(data)})  # fmt: skip
        for size in (size for size in sizes if size <= most):
            for name in chosen:
                # Calibrators fitted without the target are tested on both domains.
                fits = [(None, {"in domain": test, "shifted": new})]
                if calibrator_class(name).takes_unlabeled or name == "reference_agreement":
                    fits.append((seen, {"unlabeled target": new}))
                for unlabeled, tested in fits:
                    try:
                        start = time.process_time()
                        calibrator, uses = fitted(name, pool[:size], unlabeled)
                        spent = time.process_time() - start
                    except ValueError:
                        # So few questions are not enough for it.
                        continue
                    for setting, data in tested.items():
                        features = {"features": data.features} if uses else {}
                        start = time.process_time()
                        probabilities = calibrator.transform(data.logits, **features)
                        transforming = time.process_time() - start
                        rows.append({"calibrator": name, "labels": size, "seed": seed, "setting": setting,
                                     **measured(probabilities, data.labels), "fit ms": 1e3 * spent,
                                     "transform ms": 1e3 * transforming, "tested on": len(data)})  # fmt: skip
    return rows


def table(rows: list[dict]) -> list[dict]:
    """Return a row of means and half-widths for each set of predictions, setting, number of labels and calibrator.

    For the lab, a half-width is that of the 95% t-interval over worlds, each the mean of its splits. For one set of
    predictions it is over splits, which share questions, so it does not generalize to another set. "NLL - temperature"
    and "ECE - temperature" are paired differences from temperature scaling with as many labels on the same questions;
    with a target's questions, from temperature scaling without them.
    """
    lines = []
    keys = ("predictions", "setting", "labels", "calibrator")
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in keys), []).append(row)
    for key, runs in groups.items():
        title, setting, labels, _ = key
        line: dict = dict(zip(keys, key, strict=True)) | {"runs": len(runs), "tested on": runs[0]["tested on"]}
        without = "shifted" if setting == "unlabeled target" else setting
        base = groups.get((title, without, labels, PAIRED_WITH), [])
        paired = {(run["world"], run["seed"]): run for run in base}
        for measure in MEASURES:
            line |= mean_and_half(measure, runs, [run[measure] for run in runs])
            if measure in PAIRED and base:
                gaps = [run[measure] - paired[run["world"], run["seed"]][measure] for run in runs]
                line |= mean_and_half(f"{measure} - {PAIRED_WITH}", runs, gaps)
        line |= {name: float(np.mean([run[name] for run in runs])) for name in TIMES if name in runs[0]}
        lines.append(line)
    return lines


def mean_and_half(name: str, runs: list[dict], values) -> dict[str, float]:
    """Return the mean of a number over runs and, under the name with ±, the half-width of its interval."""
    worlds = np.array([run["world"] for run in runs])
    found = np.asarray(values, dtype=float)
    if len(set(worlds)) > 1:
        found = np.array([found[worlds == world].mean() for world in sorted(set(worlds))])
    result = {name: float(found.mean())}
    if len(found) > 1:
        half = student.ppf(0.975, len(found) - 1) * found.std(ddof=1) / np.sqrt(len(found))
        result[f"{name} ±"] = float(half)
    return result


def as_csv(lines: list[dict]) -> str:
    """Return the table as comma-separated values."""
    differences = [f"{measure} - {PAIRED_WITH}" for measure in PAIRED]
    measures = [name for measure in (*MEASURES, *differences) for name in (measure, f"{measure} ±")]
    columns = ["predictions", "setting", "labels", "calibrator", "runs", "tested on", *measures, *TIMES]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    for line in lines:
        writer.writerow({
            name: f"{value:.{2 if name in TIMES else 4}f}" if isinstance(value, float) else value
            for name, value in line.items()
        })  # fmt: skip
    return text.getvalue()


def overview(lines: list[dict], setting: str, sizes) -> str:
    """Return a Markdown table of log-loss / ECE in one setting, with a column for each set of predictions and size."""
    titles = list(dict.fromkeys(line["predictions"] for line in lines))
    columns = [(title, size) for title in titles for size in sizes]
    found = {(line["calibrator"], line["predictions"], line["labels"]): line
             for line in lines if line["setting"] == setting}  # fmt: skip
    text = ["| calibrator | " + " | ".join(f"{title}, {size:,}" for title, size in columns) + " |",
            "|---" * (len(columns) + 1) + "|"]  # fmt: skip
    for name in dict.fromkeys(name for name, _, _ in found):
        if name in SAID_APART:
            continue
        cells = []
        for title, size in columns:
            line = found.get((name, title, 0 if name == UNCALIBRATED else size))
            cells.append("–" if line is None else f"{line['NLL']:.3f} / {line['ECE']:.3f}")
        text.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(text)


def read_predictions(path: Path, sets: list[str]) -> Predictions:
    """Read sets of predictions from an npz file and concatenate them."""
    with np.load(path, allow_pickle=False) as content:
        missing = [f"{name}_logits" for name in sets if f"{name}_logits" not in content]
        if missing:
            raise SystemExit(f"{path} has no {', '.join(missing)}; it has {', '.join(content)}")
        logits, labels, features = (
            np.concatenate([content[f"{name}_{part}"] for name in sets]) for part in ("logits", "labels", "features")
        )
    return Predictions(logits.astype(np.float64), labels.astype(int), features.astype(np.float64))


def paired_with_temperature(lines: list[dict], size: int) -> str:
    """Return a table of the differences from temperature scaling with a number of labels."""
    rows = []
    for line in lines:
        if line["labels"] != size or line["calibrator"] in (PAIRED_WITH, *SAID_APART):
            continue
        row = {name: line[name] for name in ("predictions", "setting", "calibrator")}
        for measure in PAIRED:
            name = f"{measure} - {PAIRED_WITH}"
            if name in line:
                row[name] = f"{line[name]:+.4f} ± {line.get(f'{name} ±', np.nan):.4f}"
        rows.append(row)
    return render_table(rows)


def lab_predictions(preset: str, seed: int, n: int) -> tuple[Predictions, Predictions]:
    """Align the lab's model with plain DPO, and ask it and the pre-trained model n questions of both domains."""
    import tempfile

    from hf_calib.confidence import predict
    from hf_calib.lab import PRESETS, Bench, make_tokenizer, make_world, plain_dpo, pretrained_folder, sample_data

    settings, tokenizer = PRESETS[preset], make_tokenizer()
    world, folder = make_world(settings, seed), pretrained_folder(settings, seed)
    with tempfile.TemporaryDirectory() as work:
        from transformers import AutoModelForCausalLM

        pretrained = AutoModelForCausalLM.from_pretrained(folder).eval()
        data = sample_data(settings, world, pretrained, tokenizer, seed)
        aligned = plain_dpo(Bench(settings, data, folder, tokenizer, Path(work), seed)).model.eval()
        both = []
        for index, domain in enumerate(("in", "out")):
            questions = world.sample_questions(n, domain, "test", (seed, 100 + index)).to_questions()
            ours = predict(aligned, tokenizer, questions, batch_size=512, hidden_states=True)
            reference = predict(pretrained, tokenizer, questions, batch_size=512).option_log_probabilities
            both.append(Predictions(ours.option_log_probabilities, ours.answers, ours.hidden_states, reference))
    return both[0], both[1]


def main() -> None:
    """Print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--predictions", type=Path, help="an npz file of predictions")
    parser.add_argument("--source", nargs="+", default=["validation", "arc_easy", "arc_challenge", "openbookqa"])
    parser.add_argument("--target", nargs="+", default=["mmlu"])
    parser.add_argument("--lab", nargs="+", default=[], help="presets of the lab, such as fixed: align their models")
    parser.add_argument("--lab-seeds", type=int, default=1, help="worlds of the lab (default: 1)")
    parser.add_argument("--lab-questions", type=int, default=8000)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), help="numbers of labels to fit on")
    parser.add_argument("--shown", type=int, nargs="+", default=[30, 300, 3000], help="those of the overview")
    parser.add_argument("--seeds", type=int, default=5, help="splits (default: 5)")
    parser.add_argument("--calibrators", nargs="+", default=None, help="default: all")
    parser.add_argument("--table", type=Path, help="a CSV file for the whole table")
    parser.add_argument("--out", type=Path, help="a JSON file for every run")
    arguments = parser.parse_args()
    sources: dict[str, list[tuple[Predictions, Predictions]]] = {}
    if arguments.predictions is not None:
        sources["real"] = [
            (read_predictions(arguments.predictions, arguments.source),
             read_predictions(arguments.predictions, arguments.target))
        ]  # fmt: skip
    for preset in arguments.lab:
        sources[f"lab {preset}"] = [
            lab_predictions(preset, seed, arguments.lab_questions) for seed in range(arguments.lab_seeds)
        ]
    if not sources:
        parser.error("give --predictions FILE, --lab PRESET, or both")
    rows = []
    for title, pairs in sources.items():
        chosen = [name for name in arguments.calibrators or names() if applicable(name, pairs[0][0])]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for world, (source, target) in enumerate(pairs):
                found = compare(source, target, arguments.sizes, arguments.seeds, chosen)
                rows += [{"predictions": title, "world": world, **row} for row in found]
    lines = table(rows)
    for setting in SETTINGS:
        print(f"{setting}: log-loss / ECE by the number of labels\n\n{overview(lines, setting, arguments.shown)}\n")
    for size in arguments.shown:
        print(f"Differences from temperature scaling, {size:,} labels\n\n{paired_with_temperature(lines, size)}\n")
    if arguments.table is not None:
        arguments.table.write_text(as_csv(lines), encoding="utf-8")
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(rows) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
