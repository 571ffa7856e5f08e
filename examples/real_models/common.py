"""What the experiments on real models share: the models, the questions, and one file of figures for each arm."""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import random
import shutil
import time
from dataclasses import replace
from pathlib import Path

SHOWN = ("accuracy", "confidence", "ece", "smooth_ece", "nll", "brier", "auroc", "flip_rate")
VERSIONS_OF = ("hf-calib", "torch", "transformers", "trl", "peft")
# Hub names of the question sets; `--data FOLDER` reads FOLDER/<name>.jsonl in their place.
SETS = {
    "arc_easy_train": "allenai/ai2_arc:ARC-Easy:train",
    "arc_easy_test": "allenai/ai2_arc:ARC-Easy:test",
    "arc_challenge_train": "allenai/ai2_arc:ARC-Challenge:train",
    "arc_challenge_test": "allenai/ai2_arc:ARC-Challenge:test",
    "openbookqa_train": "allenai/openbookqa:main:train",
    "openbookqa_test": "allenai/openbookqa:main:test",
    "mmlu_test": "cais/mmlu:all:test",
}
N_OPTIONS = 4
TRAIN = ("openbookqa_train", "arc_easy_train", "arc_challenge_train")
TEST = {
    "ARC-Easy": ("arc_easy_test",),
    "in domain": ("openbookqa_test", "arc_easy_test", "arc_challenge_test"),
    "out of domain": ("mmlu_test",),
}


def load(name, data=None):
    """Return the questions of a set, from the Hub or from a folder of question files.

    Raises
    ------
    SystemExit
        If a file is missing or cannot be read, or a question is unanswered.
    """
    import hf_calib
    from hf_calib.tasks import QuestionError

    if data is None:
        return hf_calib.load_questions(SETS[name])
    path = Path(data) / f"{name}.jsonl"
    try:
        questions = hf_calib.load_questions(path)
    except (FileNotFoundError, QuestionError) as error:
        raise SystemExit(f"--data: {error}") from None
    without = sum(question.answer is None for question in questions)
    if without:
        raise SystemExit(f"--data: {without} of {len(questions)} questions in {path} are unanswered; add the answers")
    return questions


def read(names, data=None, seed=0):
    """Return the questions of several sets with four options, shuffled; vector scaling needs one number of options."""
    questions = []
    for name in names:
        found = load(name, data)
        questions += [replace(question, subject=None) for question in found if len(question.choices) == N_OPTIONS]
    random.Random(seed).shuffle(questions)
    return questions


def first(questions, n, option, name):
    """Return the first `n` questions, or all if there are fewer, which is printed."""
    if len(questions) < n:
        print(
            f"{option}: {name} has only {len(questions):,} questions with {N_OPTIONS} options; all are used",
            flush=True,
        )
    return questions[:n]


def test_sets(data, n):
    """Return the first `n` shuffled questions of each test set; they are the same for all arms and seeds."""
    return {name: first(read(names, data), n, "--n_test", name) for name, names in TEST.items()}


def read_pairs(path):
    """Return the preference pairs of a file, each with the texts `prompt`, `chosen` and `rejected`.

    Raises
    ------
    SystemExit
        If the file does not exist, or a row is not a pair; the message names the row and the column.
    """
    from hf_calib.tasks import QuestionError
    from hf_calib.tasks.files import file_rows

    path = Path(path)
    if not path.is_file():
        raise SystemExit(f"--pairs: file {str(path)!r} does not exist")
    pairs = []
    try:
        for place, row in file_rows(path):
            for column in ("prompt", "chosen", "rejected"):
                if not isinstance(row.get(column), str):
                    problem = "is not a text" if row.get(column) is not None else "is missing"
                    raise SystemExit(
                        f"--pairs: {place}: {column!r} {problem}; each row needs prompt, chosen and rejected"
                    )
            pairs.append(dict(row))
    except QuestionError as error:
        raise SystemExit(f"--pairs: {error}") from None
    if not pairs:
        raise SystemExit(f"--pairs: {path} holds no pair")
    return pairs


def read_questions(path):
    """Return the free-form questions of a file.

    Raises
    ------
    SystemExit
        If the file or a row cannot be read.
    """
    from hf_calib.tasks import QuestionError
    from hf_calib.tasks.free_form import load_free_form_questions

    try:
        return load_free_form_questions(path)
    except (FileNotFoundError, QuestionError) as error:
        raise SystemExit(f"--questions: {error}") from None


def positive(text):
    """Read a number of questions or steps from the command line.

    Raises
    ------
    argparse.ArgumentTypeError
        If it is not a whole number of at least 1.
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return int(text)


def digest(*parts):
    """Return a digest of questions, pairs or other values, to check whether two runs used the same data."""
    return hashlib.sha256("\n".join(map(repr, parts)).encode()).hexdigest()[:16]


def source_of(model):
    """Return a model's identifier: its Hub id, or a digest of its files if it is local."""
    from hf_calib.evaluation.digests import folder_digests

    return f"files:{digest(folder_digests(str(model)))}" if Path(model).exists() else str(model)


def check_settings(path, found, wanted, option="--out"):
    """Exit with an error if a file from an earlier run was made with other settings."""
    differing = sorted(name for name in {*found, *wanted} if found.get(name) != wanted.get(name))
    if differing:
        raise SystemExit(
            f"{option}: {path} is from a run with other settings ({', '.join(differing)}); give another folder"
        )


def figures(predictions, seed=0):
    """Return the shown measures of predictions with their intervals, and the bins of the reliability diagram."""
    report = predictions.report(seed=seed)
    found = {name: report.measures[name] for name in SHOWN if name in report.measures}
    return {
        "n": report.n,
        **{name: {"value": m.value, "low": m.low, "high": m.high} for name, m in found.items()},
        "ece_if_calibrated": report.test.expected_error,
        "bins": report.bins,
    }


def calibrated(answers, method, labels=None):
    """Return all answers after a calibrator that was fitted on those to the fitting questions, and its parameters."""
    from hf_calib.calibrators import by_name

    own = answers["fit"]
    calibrator = by_name(method).fit(own.logits, own.answers if labels is None else labels)
    return {name: predictions.calibrated(calibrator) for name, predictions in answers.items()}, repr(calibrator)


def fine_tune(model, questions, folder, reading, seed, settings, **options):
    """Train an adapter with CFT or RCFT unless it is there, from the last checkpoint on, and save it with its card.

    Parameters
    ----------
    model : path or str
    questions : list of Question
        With answers.
    folder : Path
        Gets the adapter.
    reading : str
        What confidence is read off.
    seed : int
    settings : dict
        `method`, `steps`, `batch_size`, `learning_rate` and `lora_r`; optionally `permute_options` and `bf16`.
    **options
        Of `CalibrationAwareSFTTrainer`.

    Returns
    -------
    float
        Seconds of the training since the last checkpoint.

    Raises
    ------
    SystemExit
        If the folder holds a training run with other settings, another model or other questions.
    """
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer

    import hf_calib

    done, kept = folder / "seconds.txt", folder / "settings.json"
    checkpoint = last_checkpoint(folder)
    wanted = {
        **settings,
        "reading": reading,
        "seed": seed,
        "source": source_of(model),
        "trained_on": digest(questions),
    }
    if done.exists() or checkpoint is not None:
        check_settings(kept, json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}, wanted)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(wanted, indent=1) + "\n", encoding="utf-8")
    if done.exists():
        return float(done.read_text())
    config = hf_calib.CalibrationAwareSFTConfig(
        str(folder),
        method=settings["method"],
        calibration_confidence=reading,
        permute_options=settings.get("permute_options", False),
        max_steps=settings["steps"],
        per_device_train_batch_size=settings["batch_size"],
        learning_rate=settings["learning_rate"],
        lr_scheduler_type="cosine",
        warmup_steps=10,
        seed=seed,
        bf16=settings.get("bf16", False),
        use_cpu=device() == "cpu",
        gradient_checkpointing=False,
        logging_steps=10,
        save_steps=25,
        save_total_limit=1,
        report_to="none",
    )
    rank = settings["lora_r"]
    trainer = hf_calib.CalibrationAwareSFTTrainer(
        AutoModelForCausalLM.from_pretrained(model, dtype="float32"),
        args=config,
        train_dataset=questions,
        processing_class=AutoTokenizer.from_pretrained(model),
        peft_config=LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM"),
        **options,
    )
    start = time.perf_counter()
    trainer.train(resume_from_checkpoint=checkpoint)
    seconds = round(time.perf_counter() - start, 1)
    trainer.save_model()
    trainer.create_model_card()
    done.write_text(str(seconds))
    for checkpoint in folder.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    return seconds


def last_checkpoint(folder):
    """Return the last complete checkpoint of a folder, or None; a killed run may leave an incomplete one."""
    from hf_calib.trainers.interruption import last_complete_checkpoint

    try:
        return last_complete_checkpoint(folder)
    except ValueError:
        return None


def write(path, text):
    """Write a file that is there completely or not at all, even if the run is killed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)


def versions():
    """Return the versions of the packages that the figures depend on."""
    return {name: importlib.metadata.version(name) for name in VERSIONS_OF}


def device():
    """Return the name of the GPU if there is one, else of the processor."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


class Rows:
    """The rows of an experiment, each in a file of its own that is written when the row is complete.

    `group` says what the folders are: one for each reading, or one for each model.
    """

    def __init__(self, folder, group="reading"):
        self.folder = Path(folder)
        self.group = group

    def path(self, group, arm, seed):
        """Return the file of a row; `seed` is None where nothing is drawn."""
        name = arm.replace(" + ", "-").replace(" ", "-")
        return self.folder / group / (name + ("" if seed is None else f"-seed{seed}") + ".json")

    def missing(self, group, arm, seed, settings):
        """Tell whether a row has to be computed.

        Raises
        ------
        SystemExit
            If it is there with other settings.
        """
        path = self.path(group, arm, seed)
        if not path.exists():
            return True
        check_settings(path, json.loads(path.read_text(encoding="utf-8"))["settings"], settings)
        return False

    def add(self, group, arm, seed, settings, **values):
        """Write a row."""
        row = {self.group: group, "arm": arm, "seed": seed, "settings": settings, "versions": versions(), **values}
        write(self.path(group, arm, seed), json.dumps(row, indent=1) + "\n")

    def load(self):
        """Return all rows.

        Raises
        ------
        SystemExit
            If the folder holds a file that is not a row of this experiment.
        """
        rows = []
        for path in sorted(self.folder.glob("*/*.json")):
            row = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(row, dict) or not {self.group, "arm", "seed", "settings"} <= set(row):
                raise SystemExit(
                    f"folder: {path} is not a row of this experiment; give the folder that the run wrote with --out"
                )
            rows.append(row)
        return rows
