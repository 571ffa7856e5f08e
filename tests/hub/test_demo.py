"""Publishing what the demo made, and the cards that are kept of it."""

import re
import shlex
import shutil
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard

from hf_calib.cli import main
from hf_calib.hub import (
    CalibrationCardData,
    Evaluation,
    InvalidFolderError,
    load,
    publish_demo,
    render_card,
    save_calibration_metadata,
    write_card,
)
from hf_calib.hub.transfer import read_content
from hf_calib.measures import CalibrationReport
from tests.hub.cards import card_data, report
from tests.hub.conftest import make_adapter
from tests.loopback_hub import Fault

CARDS = Path(__file__).resolve().parents[2] / "model_cards"


@pytest.fixture
def demo(base_folder, tmp_path):
    """A folder as `hf-calib demo` leaves it, small."""
    folder = tmp_path / "demo"
    shutil.copytree(base_folder, folder / "lab-base-model")
    adapter = make_adapter(folder / "lab-base-model")
    adapter.save_pretrained(folder / "adapter")
    reports = {"base": report(0), "before": report(0, 3.0), "after": report(0, 1.1)}
    base = str(folder / "lab-base-model")
    data = card_data(
        model_name="hf-calib-demo",
        hub_model_id=None,
        base_model=base,
        base_model_revision=None,
        evaluations=(Evaluation(card_data().evaluations[0].dataset, reports),),
    )
    write_card(folder / "adapter", data)
    save_calibration_metadata(folder / "adapter", base_model=base, option_counts=[4])
    return folder


def hashes(folder):
    return {path: sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


def test_base_model_and_adapter_go_up_and_load(client, demo, capsys):
    assert main(["publish", "demo", str(demo), "--namespace", "hf_calib", "--tag"]) == 0
    base, adapter = client.repository("hf_calib/lab-base-model"), client.repository("hf_calib/hf-calib-demo")
    assert len(base.history()) == len(adapter.history()) == 2
    assert base.tags.keys() == adapter.tags.keys() == {"v0.1.0"}
    model = load("hf_calib/hf-calib-demo")
    assert model.metadata.base_model == "hf_calib/lab-base-model"
    assert model.metadata.base_model_revision == base.branches["main"]
    tokens = torch.arange(20).reshape(1, -1)
    assert torch.equal(model.model(tokens).logits, make_adapter(demo / "lab-base-model")(tokens).logits)
    for name in ("hf_calib/lab-base-model", "hf_calib/hf-calib-demo"):
        text = client.files(name)["README.md"].decode()
        assert str(demo) not in text
        assert f'load("{name}")' in text
    assert "lab-base-model](https://huggingface.co/hf_calib/lab-base-model)" in text
    assert main(["publish", "demo", str(demo), "--namespace", "hf_calib"]) == 0
    assert capsys.readouterr().out.count("Nothing new") == 2


def test_fault_in_the_middle_names_the_command_for_all(client, demo, tmp_path, no_waiting, capsys):
    client.fail(Fault("/api/models/ann/hf-calib-demo/commit/", cut_upload=0.5, times=99))
    words = ["publish", "demo", str(demo), "--namespace", "ann", "--tag", "--save-cards", str(tmp_path / "the cards")]
    assert main(words) == 1
    message = capsys.readouterr().err
    assert "Published already: ann/lab-base-model.\n" in message
    client.heal()
    assert main(shlex.split(re.search(r"Continue with: hf-calib (.*)", message)[1])) == 0, capsys.readouterr().err
    for name in ("ann/lab-base-model", "ann/hf-calib-demo"):
        assert client.repository(name).tags.keys() == {"v0.1.0"}
        assert len(client.repository(name).history()) == 2
    assert (tmp_path / "the cards" / "hf-calib-demo" / "README.md").is_file()
    assert load("ann/hf-calib-demo").metadata.base_model == "ann/lab-base-model"


def test_base_models_card_has_its_own_figures(client, demo):
    publish_demo(demo, namespace="ann")
    card = client.files("ann/lab-base-model")["README.md"].decode()
    ece = report(0).measures["ece"]
    assert f"(ECE {ece.value:.3f}, 95% interval" in card
    assert "pre-trained in a synthetic world" in card
    assert load("ann/lab-base-model").confidence([{"question": "q", "choices": list("abcd")}])


def test_dry_run_keeps_the_cards(client, demo, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("HF_TOKEN")
    assert (
        main(
            ["publish", "demo", str(demo), "--namespace", "ann", "--dry-run", "--save-cards", str(tmp_path / "cards")]
        )
        == 0
    )
    assert not client.store.repositories
    kept = sorted(str(path.relative_to(tmp_path / "cards")) for path in (tmp_path / "cards").rglob("*.*"))
    files = ("README.md", "calibration_report.json", "reliability_diagram.png")
    assert kept == [f"{folder}/{file}" for folder in ("hf-calib-demo", "lab-base-model") for file in files]
    assert "# hf-calib-demo" in (tmp_path / "cards" / "hf-calib-demo" / "README.md").read_text()


def test_folder_stays_as_it_is(client, demo):
    before = hashes(demo)
    dry = publish_demo(demo, namespace="ann", dry_run=True)
    assert hashes(demo) == before
    done = publish_demo(demo, namespace="ann")
    assert hashes(demo) == before
    for publication in (dry[0], *done):
        published = client.files(publication.repo_id)
        assert {file.path for file in publication.files} == publication.contents.keys()
        for path, content in publication.contents.items():
            assert read_content(content) == published[path]


def test_what_is_wrong_with_the_base_model_is_told_of_its_own_folder(client, demo):
    weights = demo / "lab-base-model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(InvalidFolderError, match=re.escape(f"{weights} is damaged or cut off")):
        publish_demo(demo)


@pytest.mark.nightly
def test_miniature_is_a_whole_model_and_is_published_as_one(client, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = Path("mini")
    assert main(["demo", "--preset", "mini", "--out", str(folder)]) == 0
    printed = capsys.readouterr().out
    assert not (folder / "adapter").exists()
    assert main(["publish", "demo", str(folder), "--namespace", "ann"]) == 0, capsys.readouterr().err
    names = {name for _, name in client.store.repositories}
    assert names == {"ann/lab-base-model-mini", "ann/hf-calib-mini"}  # none of the demo's own
    files = client.files("ann/hf-calib-mini")
    assert "model.safetensors" in files
    card = ModelCard(files["README.md"].decode())
    assert (card.data.library_name, card.data.base_model) == ("transformers", "ann/lab-base-model-mini")
    table = (folder / "results.txt").read_text()
    for name in ("Pre-trained", "DPO", "DPO + temperature scaling", "CA-DPO, no labels"):
        # The same name in the table and in the card, on its one line.
        assert sum(line.startswith(f"{name}  ") for line in table.splitlines()) == 3
        this = " (this model)" if name.startswith("CA") else ""
        assert card.text.count("\n| " + f"{name}{this}".replace(" ", "\N{NO-BREAK SPACE}") + " |") == 2
    assert max(map(len, (table + printed).splitlines())) <= 80
    steps = [line for line in printed.splitlines() if re.match(r"\d/5  ", line)]
    assert [step[:3] for step in steps] == ["1/5", "2/5", "3/5", "4/5", "5/5"]
    assert all(step.endswith(" s") for step in steps)
    assert f"Training log: {folder / 'training.log'}" in printed
    assert "'loss':" not in printed
    assert "'loss':" in (folder / "training.log").read_text()
    loaded = load("ann/hf-calib-mini")
    report = CalibrationCardData.load(folder / "model").evaluations[0].reports["after"]
    assert loaded.confidence([{"question": "q", "choices": list("abcd")}])
    assert f"{report.measures['ece'].value:.3f}" in card.text
    assert main(["publish", "demo", str(folder), "--namespace", "ann"]) == 0
    assert capsys.readouterr().out.count("Nothing new") == 2


def test_folder_of_something_else(client, tmp_path):
    with pytest.raises(InvalidFolderError, match="hf-calib demo --out"):
        publish_demo(tmp_path)


@pytest.mark.parametrize("folder", sorted(path.parent for path in CARDS.glob("*/README.md")), ids=lambda f: f.name)
def test_kept_cards_are_what_their_reports_render_to(folder):
    data = CalibrationCardData.load(folder)
    kept = (folder / "README.md").read_text()
    assert render_card(replace(data, hub_model_id=f"hf-calib/{folder.name}"), kept) == kept


KEPT = sorted(CARDS.glob("*/calibration_report.json"))
OF_THE_DEMO = [path for path in KEPT if path.parent.name in ("hf-calib-demo", "lab-base-model")]
OF_TEXTS = [path for path in KEPT if path.parent.name.endswith("-text")]


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.parent.name)
def test_kept_reports_have_what_todays_have(path):
    """Each measure that today's code gives, with an interval where it gives one, and no other."""
    rng = np.random.default_rng(0)
    true = rng.dirichlet(np.ones(4), 500)
    answers = np.array([rng.choice(4, p=row) for row in true])
    subjects = np.where(np.arange(500) % 2, "a", "b")
    today = CalibrationReport.from_predictions(
        true**1.5 / (true**1.5).sum(1, keepdims=True),
        answers,
        groups=subjects,
        option_mass=rng.uniform(0.9, 1, 500),
        true_probabilities=true,
        n_resamples=100,
    )
    expected = intervals(today.measures)
    # What only the lab knows, and what only a reading of letters has.
    absent = () if path in OF_THE_DEMO else ("ece_true", "tce")
    absent += ("option_mass",) if path in OF_TEXTS else ()
    expected = {name: own for name, own in expected.items() if name not in absent}
    for evaluation in CalibrationCardData.load(path.parent).evaluations:
        for kept in evaluation.reports.values():
            assert kept.to_dict().keys() == today.to_dict().keys()
            assert intervals(kept.measures) == expected | intervals(shown_at_low_mass(kept.measures))
            group = next(iter(today.groups.values()))
            for kept_group in kept.groups.values():
                found = kept_group.measures.keys() - shown_at_low_mass(kept_group.measures).keys()
                assert found == group.measures.keys()


def shown_at_low_mass(measures):
    """Return what a report has only where the options have little of the probability, as today's here does not."""
    return {name: measure for name, measure in measures.items() if name == "ece_raw"}


def intervals(measures):
    return {name: measure.low is not None for name, measure in measures.items()}


@pytest.mark.nightly
def test_kept_cards_are_what_the_demo_measures_today(client, tmp_path, capsys):
    """The commands of the README, run again: the same rows and figures, up to another machine's rounding."""
    assert main(["demo", "--out", str(tmp_path / "demo")]) == 0
    command = ["publish", "demo", str(tmp_path / "demo"), "--namespace", "hf_calib", "--dry-run"]
    assert main([*command, "--save-cards", str(tmp_path / "cards")]) == 0, capsys.readouterr().err
    for path in OF_THE_DEMO:
        kept = CalibrationCardData.load(path.parent)
        new = CalibrationCardData.load(tmp_path / "cards" / path.parent.name)
        assert new.settings == kept.settings
        assert new.stage_labels == kept.stage_labels
        for before, now in zip(kept.evaluations, new.evaluations, strict=True):
            assert now.dataset == before.dataset
            assert now.stages == before.stages
            for stage in now.stages:
                ours, theirs = now.reports[stage].measures, before.reports[stage].measures
                for name, measure in ours.items():
                    for one, other in ((measure.value, theirs[name].value), (measure.low, theirs[name].low)):
                        assert one == pytest.approx(other, abs=0.02, rel=0.02), (path, stage, name)
