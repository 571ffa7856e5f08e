"""`prevent.py` on a small model."""

import json
import statistics
from importlib import import_module

import numpy as np
import pytest
import torch
from torch.nn.functional import logsigmoid

import hf_calib
from tests.examples.scripts import EXAMPLES, write
from tests.support import question_rows

N_PAIRS = 6
README = EXAMPLES.parent / "README.md"


@pytest.fixture(autouse=True)
def folder_of_scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES / "real_models"))


@pytest.fixture
def arguments(saved_model, tmp_path):
    (tmp_path / "data").mkdir()
    for seed, name in enumerate(("openbookqa_train", "openbookqa_test", "arc_easy_test", "mmlu_test")):
        write(tmp_path / "data" / f"{name}.jsonl", question_rows(30, seed=seed, choices=(4, 4)))
    pairs = [
        {"prompt": f"question {i // 2}", "chosen": f"yes {i}", "rejected": f"no {i}, never"}
        for i in range(4 * N_PAIRS)
    ]
    write(tmp_path / "pairs.jsonl", pairs)
    return [
        "--model", str(saved_model), "--data", str(tmp_path / "data"), "--pairs", str(tmp_path / "pairs.jsonl"),
        "--n_test", "10", "--n_followed", "8", "--n_fit", "8", "--n_prompts", "8", "--n_pairs", str(N_PAIRS),
        "--steps", "4", "--batch_size", "2", "--looks", "2", "--seeds", "0", "--out", str(tmp_path / "rows"),
    ]  # fmt: skip


@pytest.mark.nightly
def test_each_arm_is_measured_once_and_compared_with_plain_dpo(arguments, tmp_path, saved_model, monkeypatch):
    prevent = import_module("prevent")
    arms = [
        "before",
        "dpo",
        "rpo",
        "catto",
        "cdpo",
        "anchor",
        "anchor answers",
        "temperature",
        "daca",
        "basecal",
        "averaged 0.5",
        "repair",
    ]
    prevent.main([*arguments, "--anchor_weights", "2", "--arms", *arms])
    rows = {row["arm"]: row for row in map(json.loads, (p.read_text() for p in (tmp_path / "rows").glob("*/*.json")))}
    assert set(rows) == {"anchor 2" if arm == "anchor" else arm for arm in arms}
    for row in rows.values():
        assert len(row["preferences"]["margins"]) == sum(row["preferences"]["pairs_per_prompt"]) == N_PAIRS
        assert row["measured"]["letters"]["MMLU"]["n"] == 10
    assert rows["before"]["preferences"]["margins"] == [0.0] * N_PAIRS
    assert [look["step"] for look in rows["dpo"]["looks"]] == [2, 4]
    # A temperature leaves the preferences and the accuracy of the model that it is fitted to.
    for same in ("temperature", "daca"):
        np.testing.assert_allclose(
            rows[same]["preferences"]["margins"], rows["dpo"]["preferences"]["margins"], atol=1e-4
        )
        assert (
            rows[same]["measured"]["letters"]["MMLU"]["accuracy"]
            == rows["dpo"]["measured"]["letters"]["MMLU"]["accuracy"]
        )
    # The pre-trained model's confidence in the aligned model's answers.
    base, kept = (rows[arm]["measured"]["letters"]["MMLU"] for arm in ("before", "basecal"))
    assert kept["nll"] == base["nll"]
    assert kept["accuracy"] == rows["dpo"]["measured"]["letters"]["MMLU"]["accuracy"]
    trained = [
        json.dumps(rows[arm]["preferences"]["margins"])
        for arm in ("dpo", "rpo", "catto", "cdpo", "anchor 2", "repair")
    ]
    assert len(set(trained)) == len(trained)
    # The figures are those of the adapter that was trained.
    from common import read

    model = hf_calib.load(tmp_path / "rows" / "work" / saved_model.name / "dpo-seed0")
    asked = read(("mmlu_test",), tmp_path / "data")[:10]
    own = hf_calib.measure(model, {"own": asked}, method="letters").report.measures["nll"].value
    assert rows["dpo"]["measured"]["letters"]["MMLU"]["nll"]["value"] == pytest.approx(own, abs=1e-4)

    with monkeypatch.context() as changed:
        changed.setattr(prevent.Experiment, "measured", None)
        prevent.main([*arguments, "--anchor_weights", "2", "--arms", *arms])
    with pytest.raises(SystemExit, match="other settings"):
        prevent.main([*arguments, "--arms", "dpo", "--n_test", "9"])

    import_module("prevent_report").main([str(tmp_path / "rows")])
    report = (tmp_path / "rows" / "report.md").read_text()
    assert f"{rows['anchor 2']['preferences']['reward_margin']:.3f}" in report
    preferences = {line.split(" | ")[0]: line.split(" | ")[-1] for line in report.split("## letters")[0].splitlines()}
    data = {"dpo": "none", "anchor 2": "8 prompts", "anchor answers": "8 answered questions", "repair": "8 prompts"}
    data |= {"temperature": "8 answered questions", "daca": "8 prompts", "averaged 0.5": "none"}
    assert {arm: preferences[f"| {arm}"] for arm in data} == {arm: f"{needed} |" for arm, needed in data.items()}
    assert (tmp_path / "rows" / "reward_and_ece.png").stat().st_size > 5000


def test_held_out_pairs_share_no_prompt_with_the_others(arguments):
    prevent = import_module("prevent")
    experiment = prevent.Experiment(prevent.make_parser().parse_args(arguments))
    prompts = [{row["prompt"] for row in part} for part in (experiment.train, experiment.held_out)]
    assert len(experiment.held_out) == N_PAIRS
    assert not prompts[0] & prompts[1]


def test_all_prompts_that_are_not_trained_on_can_be_held_out(arguments, tmp_path):
    prevent = import_module("prevent")
    pairs = [
        {"prompt": f"question {i // 3}", "chosen": f"yes {i}", "rejected": f"no {i}, {'never ' * (i // 3 % 5)}"}
        for i in range(60)
    ]
    write(tmp_path / "pairs.jsonl", pairs)
    arguments = [*arguments, "--max_tokens", "36"]

    def split(*options):
        experiment = prevent.Experiment(prevent.make_parser().parse_args([*arguments, *options]))
        return experiment, experiment.train, experiment.held_out

    _, train, some = split()
    experiment, same, others = split("--held_out_tokens", "44")
    trained = {row["prompt"] for row in train}
    untrained = [row for row in pairs if experiment.rendered(row)["prompt"] not in trained]
    expected = [experiment.rendered(row) for row in untrained if experiment.fits(row, 44)]
    assert same == train
    assert len(some) < len(expected) < len(untrained)
    assert sorted(map(str, others)) == sorted(map(str, expected))
    _, same, fewer = split("--held_out_tokens", "44", "--pairs_per_prompt", "1")
    assert same == train
    assert [row["prompt"] for row in fewer] == sorted({row["prompt"] for row in expected})
    assert all(row in expected for row in fewer)


def test_a_trained_model_is_measured_again_without_training(arguments, tmp_path, monkeypatch, capsys):
    prevent = import_module("prevent")
    arguments = [*arguments, "--looks", "0", "--steps", "1", "--arms", "dpo"]
    prevent.main([*arguments, "--sets", "ARC-Easy"])
    again = [*arguments, "--sets", "--pairs_per_prompt", "1", "--out", str(tmp_path / "again")]
    with monkeypatch.context() as changed:
        changed.setattr(prevent.Experiment, "train_adapter", None)
        prevent.main([*again, "--work", str(tmp_path / "rows" / "work")])
    rows = [json.loads(next((tmp_path / out).glob("*/dpo-seed0.json")).read_text()) for out in ("rows", "again")]
    assert set(rows[0]["measured"]["letters"]) == {"ARC-Easy"}
    assert rows[1]["measured"] == {"letters": {}, "text-tokens": {}}
    assert rows[1]["preferences"]["pairs_per_prompt"] == [1] * (N_PAIRS // 2)
    assert set(rows[1]["preferences"]["margins"]) <= set(rows[0]["preferences"]["margins"])
    import_module("prevent_report").main([str(tmp_path / "again")])
    assert f"{N_PAIRS // 2} pairs of {N_PAIRS // 2} prompts" in (tmp_path / "again" / "report.md").read_text()
    with pytest.raises(SystemExit):
        prevent.main([*arguments, "--looks", "1", "--sets", "MMLU"])
    assert (
        "--sets: ARC-Easy is missing, but is measured during training; add it, or pass --looks 0"
        in capsys.readouterr().err
    )


def test_an_arm_that_changes_plain_dpo_needs_its_model(arguments):
    with pytest.raises(SystemExit, match="run the arm dpo with seed 0 first"):
        import_module("prevent").main([*arguments, "--arms", "daca"])


def test_an_adapter_of_other_settings_is_neither_changed_nor_overwritten(arguments, tmp_path, monkeypatch):
    prevent = import_module("prevent")
    work = tmp_path / "work"
    short = [*arguments, "--work", str(work), "--looks", "0", "--sets"]
    prevent.main([*short, "--steps", "1", "--arms", "dpo"])
    monkeypatch.setattr(prevent.Experiment, "train_adapter", None)
    for arm in ("dpo", "daca"):
        with pytest.raises(SystemExit, match=r"--work: .*training\.json is from a run with other settings \(steps\)"):
            prevent.main([*short, "--steps", "2", "--arms", arm, "--out", str(tmp_path / "other")])


def test_bad_numbers_of_pairs_and_questions_are_refused(arguments, capsys):
    prevent = import_module("prevent")
    with pytest.raises(SystemExit):
        prevent.main([*arguments, "--batch_size", "16", "--micro_batch_size", "5"])
    assert "--micro_batch_size: must divide --batch_size, 16" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="--n_fit: openbookqa_train has only 30 questions; lower --n_fit"):
        prevent.main([*arguments, "--n_fit", "30"])


def test_label_smoothing_is_cross_entropy_with_smoothed_labels():
    config = import_module("prevent").ARMS["label smoothing"].config
    margins, epsilon = torch.linspace(-5, 5, 11, dtype=torch.float64), config["label_smoothing"]
    right, flipped = -logsigmoid(margins), -logsigmoid(-margins)
    losses = {"sigmoid": right, "robust": ((1 - epsilon) * right - epsilon * flipped) / (1 - 2 * epsilon)}
    trained = sum(
        weight * losses[name] for name, weight in zip(config["loss_type"], config["loss_weights"], strict=True)
    )
    torch.testing.assert_close(trained, (1 - epsilon) * right + epsilon * flipped)


def test_pairs_of_one_prompt_count_as_one():
    report = import_module("prevent_report")
    own, plain = np.random.default_rng(0).normal(size=(2, 40))

    def row(margins, times):
        margins = np.repeat(margins, times)
        return {"seed": 0, "preferences": {"margins": margins.tolist(), "reward_accuracy": (margins > 0).mean()}}

    once, often = (report.difference([row(own, times)], [row(plain, times)], [times] * len(own)) for times in (1, 10))
    assert once == often
    independent = report.difference([row(own, 10)], [row(plain, 10)], [1] * 10 * len(own))
    assert width(once) / width(independent) == pytest.approx(10**0.5, rel=0.15)
    # Prompts weigh as much as they have pairs.
    sizes = [1, 3]
    assert report.over_prompts([[1.0, 0.0, 0.0, 0.0]], sizes) == "[0.000, 1.000]"


def width(cell):
    low, high = cell.split("[")[1].rstrip("]").split(", ")
    return float(high) - float(low)


def test_the_committed_report_and_tables_are_those_of_the_rows():
    folder = EXAMPLES / "real_models" / "results" / "prevent"
    rows = import_module("common").Rows(folder, "model").load()
    assert import_module("prevent_report").report(rows) == (folder / "report.md").read_text(encoding="utf-8")
    story = (EXAMPLES / "real_models" / "README.md").read_text(encoding="utf-8")
    measures = [(reading, key) for reading in ("letters", "text-tokens") for key in ("ece", "nll")]
    for model, needed in (
        ("gemma", {"before", "dpo", "anchor 5", "anchor self"}),
        ("gemma-float32", {"before", "dpo", "anchor 5", "cdpo", "basecal"}),
    ):
        table = story.split(f"<!-- prevent/{model} -->")[1].split("\n\n")[0].strip().splitlines()[2:]
        seen = set()
        for line in table:
            label, *cells = [cell.strip() for cell in line.strip("|").split("|")]
            arm = label.split("`")[1]
            own = [row for row in rows if row["model"] == model and row["arm"] == arm]
            own.sort(key=lambda row: row["seed"] or 0)
            values = [[] if arm == "before" else [row["preferences"]["reward_accuracy"] for row in own]]
            values += [
                [row["measured"][reading]["ARC-Easy"][key]["value"] for row in own] for reading, key in measures
            ]
            assert cells == [", ".join(f"{value:.3f}" for value in found) for found in values], arm
            seen.add(arm)
        assert seen >= needed


def test_the_differences_in_the_text_are_those_of_the_rows():
    report = import_module("prevent_report")
    rows = import_module("common").Rows(EXAMPLES / "real_models" / "results" / "prevent", "model").load()
    texts = [path.read_text(encoding="utf-8") for path in (README, EXAMPLES / "real_models" / "README.md")]
    front, story = (" ".join(text.split()).replace("[+", "[").replace(", +", ", ") for text in texts)
    for model, arm, shown in (
        ("gemma", "anchor self", (front, story)),
        ("gemma", "anchor 1", (front, story)),
        ("gemma", "anchor pairs", (front,)),
        ("gemma", "anchor 5", (story,)),
        ("gemma", "anchor 20", (story,)),
        ("gemma-float32", "anchor 5", (story,)),
        ("gemma-float32", "repair", (story,)),
    ):
        of_model = report.arms_of([row for row in rows if row["model"] == model])
        sizes = of_model[arm][0]["preferences"]["pairs_per_prompt"]
        found = report.difference(of_model[arm], of_model["dpo"], sizes).replace("[+", "[").replace(", +", ", ")
        assert all(found in text for text in shown), (model, arm, found)


def test_the_committed_alignment_with_right_answers_is_that_of_the_rows():
    folder = EXAMPLES / "real_models" / "results" / "answer_pairs"
    rows = {}
    for own in folder.iterdir():
        rows[own.name] = import_module("common").Rows(own, "model").load()
        assert import_module("prevent_report").report(rows[own.name]) == (own / "report.md").read_text(
            encoding="utf-8"
        )
    story = (EXAMPLES / "real_models" / "README.md").read_text(encoding="utf-8")
    table = story.split("<!-- answer_pairs -->")[1].split("\n\n")[0].strip().splitlines()[2:]
    shown = 0
    for line in table:
        label, rate, *cells = [cell.strip() for cell in line.strip("|").split("|")]
        own = [row for row in rows[rate or "5e-4"] if row["arm"] == label.split("`")[1]]
        own.sort(key=lambda row: row["seed"] or 0)
        kept = [row["preferences"] for row in own]
        letters, texts = (
            [row["measured"][reading]["ARC-Easy"] for row in own] for reading in ("letters", "text-tokens")
        )
        values = [[found["reward_accuracy"] for found in kept if any(found["margins"])]]
        values.append([found["win_rate"] for found in kept])
        values += [[found["ece"]["value"] for found in measured] for measured in (letters, texts)]
        values.append([found["nll"]["value"] for found in texts])
        assert cells == [", ".join(f"{value:.3f}" for value in of_seeds) for of_seeds in values], label
        shown += len(own)
    assert shown == sum(map(len, rows.values())) >= 6
    summary = (
        (EXAMPLES.parent / "README.md").read_text(encoding="utf-8").split("| before alignment |")[1].split("\n\n")[0]
    )
    for line, arm in zip(summary.splitlines()[1:], ("dpo", "anchor 1"), strict=True):
        own = [row for row in rows["1e-4"] if row["arm"] == arm]
        assert len(own) == 3
        kept = [row["preferences"]["reward_accuracy"] for row in own]
        texts, letters = (
            [row["measured"][reading]["ARC-Easy"]["ece"]["value"] for row in own]
            for reading in ("text-tokens", "letters")
        )
        means = [f"{statistics.mean(values):.3f}" for values in (kept, texts, letters)]
        assert [cell.strip() for cell in line.strip("|").split("|")][1:] == means


def test_the_committed_measurements_on_other_prompts_are_those_of_the_rows():
    folder = EXAMPLES / "real_models" / "results" / "prevent_other_prompts"
    rows = import_module("common").Rows(folder, "model").load()
    report = import_module("prevent_report").report(rows)
    assert report == (folder / "report.md").read_text(encoding="utf-8")
    found = [line.split(" | ") for line in report.splitlines() if line.startswith("| ") and " | 1 | " in line]
    story = (EXAMPLES / "real_models" / "README.md").read_text(encoding="utf-8")
    table = story.split("<!-- prevent_other_prompts -->")[1].split("\n\n")[0].strip().splitlines()[2:]
    for line, (arm, _, *cells) in zip(table, found, strict=True):
        assert f"(`{arm.strip('| ')}`)" in line
        assert [own.strip(" |") for own in line.split(" | ")[1:]] == cells[:3]
