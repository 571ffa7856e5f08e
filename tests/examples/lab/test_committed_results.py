"""The lab's committed results, and what the documentation quotes of them."""

import dataclasses
import json
import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from experiments.claims import CLAIMS, claims_table
from experiments.compared import METHODS, SETTINGS_SEEDS
from experiments.presets import WORLDS
from experiments.report import write_report
from experiments.results import load_rows
from experiments.selective import MEASURES, SELECTIVE_KEYS
from experiments.sweep_report import write_sweep_report
from experiments.sweeps import SWEEPS
from scipy import stats

from hf_calib.lab import DOMAINS
from hf_calib.trainers import CalibrationAwareConfig, CalibrationAwareSFTConfig

ROOT = Path(__file__).resolve().parents[3]
LAB = ROOT / "examples" / "lab"
QUOTED = {
    "pre-trained": "pretrained",
    "plain DPO": "dpo",
    "plain DPO, temperature scaling": "dpo+temperature",
    "calibration-aware DPO, no labels": "calibration-aware-dpo-unlabelled",
    "calibration-aware DPO, labels in domain": "calibration-aware-dpo",
    "plain DPO, then repaired without labels": "repair-unlabelled",
    "plain DPO, then CFT in domain": "cft",
    "plain DPO, then long fine-tuning": "long",
    "the same, temperature scaling": "long+temperature",
    "plain DPO, then long fine-tuning with the anchor": "rcft",
}
# Methods whose rows with shuffled options, if any, are of a later run, in a file of their own.
RUN_LATER = {
    "basecal-reeval", "basecal-proj", "wise-ft-0.1", "wise-ft-0.25", "wise-ft-0.5", "wise-ft-0.75", "dpo-robust",
    "rpo", "cdpo", "cdpo-stated", "dpo-bce", "catto", "rcft-synthesized", "calibration-aware-dpo-pairs",
    "calibration-aware-dpo-synthesized",
}  # fmt: skip
COLUMNS = (("in", "ece"), ("out", "ece"), ("unseen", "ece"), ("in", "accuracy"), ("in", "win_rate_open"))
README_COLUMNS = (COLUMNS[0], *COLUMNS[2:])


@pytest.fixture(scope="module")
def rows():
    return load_rows(LAB / "results.json")


def test_the_rows_are_of_enough_seeds_questions_and_methods(rows):
    assert {row["method"] for row in rows} == set(METHODS)
    assert {row["n"] for row in rows} == {20_000}
    assert all(row["reported"] == (row["seed"] not in SETTINGS_SEEDS) for row in rows)
    complete = set(METHODS) - RUN_LATER
    for world in WORLDS:
        found = [(row["seed"], row["method"], row["domain"]) for row in rows if row["world"] == world]
        seeds = {seed for seed, _, _ in found} - set(SETTINGS_SEEDS)
        assert len(set(found)) == len(found)
        assert sum(method in complete for _, method, _ in found) == 3 * len(complete) * len(
            {seed for seed, _, _ in found}
        )
        assert len(seeds) >= 5
    for method in RUN_LATER:
        assert sum(row["method"] == method for row in rows if row["world"] == "fixed" and row["reported"]) == 15


def test_the_report_is_that_of_the_rows(tmp_path):
    for name in ("results.json", "selective.json"):
        shutil.copy(LAB / name, tmp_path)
    again = write_report(tmp_path)
    committed = (LAB / "report.md").read_text(encoding="utf-8")
    # Of the figures, some need the runs' bins, which are not committed.
    assert again.split("![")[0] == committed.split("![")[0]
    for name in re.findall(r"\((\w+\.png)\)", committed):
        assert (LAB / name).is_file()


def quoted(path):
    """Yield the lines of a page's tables of these results, each with the world that it is about."""
    world = "shuffled"
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            world = "fixed" if "fixed order" in line else "shuffled"
        cells = [cell.strip(" *") for cell in line.strip("|").split("|")]
        if "±" in line and cells[0] in QUOTED:
            yield world, cells


@pytest.mark.parametrize(
    ("path", "columns", "tables"),
    [
        (ROOT / "README.md", README_COLUMNS, {"shuffled": 6}),
        (LAB / "README.md", COLUMNS, {"shuffled": 10, "fixed": 10}),
    ],
    ids=["README", "the lab's"],
)
def test_the_tables_quote_the_rows(path, columns, tables, rows):
    found = Counter()
    for world, cells in quoted(path):
        found[world] += 1
        for (domain, key), cell in zip(columns, cells[1:], strict=True):
            own = [
                row[key]
                for row in rows
                if row["reported"]
                and (row["world"], row["method"], row["domain"]) == (world, QUOTED[cells[0]], domain)
            ]
            half = stats.t.ppf(0.975, len(own) - 1) * np.std(own, ddof=1) / len(own) ** 0.5
            assert cell.replace("*", "") == f"{np.mean(own):.3f} ± {half:.3f}"
    assert found == tables


def test_the_story_counts_the_claims(rows):
    missed = {}
    for world in WORLDS:
        table = claims_table([row for row in rows if row["reported"] and row["world"] == world])
        lines = table.splitlines()[2:]
        assert len(lines) == sum(len(claims) for claims in CLAIMS.values()) == 37
        missed[world] = [line.split(",")[0] for line in lines if line.endswith("NO")]
    assert missed == {
        "fixed": ["calibration-aware-dpo: ECE"],
        "shuffled": ["calibration-aware-dpo: seconds over that of dpo"],
    }
    story = " ".join((LAB / "README.md").read_text("utf-8").split())
    assert "Of the thirty-seven claims that the experiment tests in each world, thirty-six hold in each" in story


def test_the_sweeps_report_is_that_of_their_rows(tmp_path):
    for name in SWEEPS:
        shutil.copy(LAB / f"sweep_{name}.json", tmp_path)
    assert write_sweep_report(tmp_path) == (LAB / "sweeps.md").read_text(encoding="utf-8")
    for name in SWEEPS:
        assert (LAB / f"sweep_{name}.png").is_file()


def test_the_story_quotes_the_sweeps_and_reinforcement_learning():
    """Each line of these tables starts with a method and gives means over reported seeds, to three places."""
    story = (LAB / "README.md").read_text(encoding="utf-8")
    errors = [(domain, "ece") for domain in DOMAINS]
    tables = {
        "sweep_prompts.json": [*errors, *((domain, "accuracy") for domain in DOMAINS)],
        "sweep_chat.json": [*errors, ("in", "win_rate_open")],
        "sweep_reference.json": [*errors, ("in", "accuracy")],
        "reinforce.json": [*errors, ("in", "accuracy"), ("in", "reward"), ("in", "reward_open")],
    }
    for name, columns in tables.items():
        rows = [row for row in json.loads((LAB / name).read_text("utf-8")) if row["reported"]]
        table = story.split(f"<!-- {name} -->")[1].split("\n\n")[0].strip().splitlines()[2:]
        assert len(table) >= 3
        for line in table:
            method, *cells = [cell.strip(" `*") for cell in line.strip("|").split("|")]
            own = {
                domain: [row for row in rows if (row["method"], row["domain"]) == (method, domain)]
                for domain in DOMAINS
            }
            assert [f"{np.mean([row[key] for row in own[domain]]):.3f}" for domain, key in columns] == cells, method


def test_the_table_of_defaults_has_those_of_the_trainers():
    story = (LAB / "README.md").read_text(encoding="utf-8")
    lines = story.split("## Where the trainers' defaults come from")[1].split("\n\n")[1].splitlines()[2:]
    fields = {
        config: {field.name: field.default for field in dataclasses.fields(config)}
        for config in (CalibrationAwareConfig, CalibrationAwareSFTConfig)
    }
    checked = set()
    for line in lines:
        option, default, _ = (cell.strip() for cell in line.strip("|").split("|"))
        own = fields[CalibrationAwareSFTConfig if "fine-tuning" in option else CalibrationAwareConfig]
        names, values = re.findall(r"`(\w+)`", option), default.replace("off", "False").split(", ")
        if len(names) != len(values) or "recalibrate" in names:
            continue
        for name, value in zip(names, values, strict=True):
            if own[name] is not None:
                assert value == (f"{own[name]:g}" if type(own[name]) is float else str(own[name])), name
                checked.add(name)
    assert checked >= {
        "anchor_weight", "supervised_weight", "em_steps", "em_momentum", "em_bins", "em_sharing", "em_fraction",
        "average_weights", "brier_weight", "dece_weight", "preference_weight", "permute_options",
    }  # fmt: skip


def test_the_story_quotes_the_rivals_over_all_seeds(rows):
    story = (LAB / "README.md").read_text(encoding="utf-8")
    selective = [row for row in load_rows(LAB / "selective.json", SELECTIVE_KEYS) if row["domain"] == "out"]
    columns = [*COLUMNS, ("in", "time")]
    fixed = [row for row in rows if row["world"] == "fixed" and row["reported"]]
    for name, own in (
        ("rivals", fixed),
        ("rivals_shuffled.json", load_rows(LAB / "rivals_shuffled.json")),
        ("selective", selective),
    ):
        dpo = {row["seed"]: row["seconds"] for row in own if row["method"] == "dpo" and "seconds" in row}
        lines = story.split(f"<!-- {name} -->")[1].split("\n\n")[0].strip().splitlines()[2:]
        assert len(lines) >= 8
        for line in lines:
            label, n, *cells = [cell.strip() for cell in line.strip("|").split("|")]
            (method,) = re.findall(r"`(.+)`", label)
            of_method = [row for row in own if row["method"] == method]
            if name == "selective":
                values = [[row[key] for row in of_method] for key in MEASURES]
            else:
                of_method = [{**row, "time": row["seconds"] / dpo[row["seed"]]} for row in of_method]
                values = [[row[key] for row in of_method if row["domain"] == domain] for domain, key in columns]
            assert int(n) == len(values[0]) == 5, label
            for cell, value in zip(cells, values, strict=True):
                places = len(cell.partition(".")[2])
                assert cell == ("" if None in value else f"{np.mean(value):.{places}f}"), label


def test_the_story_quotes_the_free_form_comparison():
    story = (LAB / "README.md").read_text(encoding="utf-8")
    rows = json.loads((LAB / "free_form.json").read_text("utf-8"))
    table = story.split("<!-- free_form.json -->")[1].split("\n\n")[0].strip().splitlines()[2:]
    assert len(table) >= 15
    seeds = {row["seed"] for row in rows}
    assert seeds == {3, 4, 5, 6, 7}
    for line in table:
        method, reading, *cells = [cell.strip(" `") for cell in line.strip("|").split("|")]
        own = [row for row in rows if (row["method"], row["reading"], row["domain"]) == (method, reading, "trained")]
        assert {row["seed"] for row in own} == seeds
        for key, cell in zip(("accuracy", "ece", "tce", "brier", "auroc"), cells, strict=True):
            values = [row[key] for row in own]
            half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
            assert cell == f"{np.mean(values):.3f} ± {half:.3f}"
