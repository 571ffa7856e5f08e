import numpy as np
import pytest
import torch

from hf_calib.calibrators import by_name, load_calibrator

from .samples import sharpened


@pytest.mark.parametrize("n", [300, 1000])
def test_the_number_of_labels_decides(n, tmp_path):
    logits, labels = sharpened(n, 3.0, seed=1)
    auto = by_name("auto").fit(logits, labels)
    assert auto.chosen == ("temperature" if n < 1000 else "adaptive_temperature")
    assert f"{n:,}" in auto.reason
    plain = by_name(auto.chosen).fit(logits, labels)
    assert np.array_equal(auto.transform(logits), plain.transform(logits))
    auto.save(tmp_path / "calibrator.json")
    assert np.array_equal(load_calibrator(tmp_path).transform(logits), auto.transform(logits))


def test_what_is_known_of_the_target_and_the_reference_decides_first():
    logits, labels = sharpened(1200, 3.0, seed=2)
    half = np.where(np.arange(1200) < 600, labels, -1)
    # The same noise on a weaker signal, and on a stronger one.
    harder, easier = (np.where(half[:, None] < 0, logits * factor, logits) for factor in (0.5, 3.0))
    auto = by_name("auto").fit(harder, half)
    assert auto.chosen == "adaptive_ensemble"
    assert np.array_equal(auto.transform(logits), by_name("adaptive_ensemble").fit(harder, half).transform(logits))
    auto = by_name("auto").fit(torch.from_numpy(easier), torch.from_numpy(half), weights=np.arange(1200.0))
    assert auto.chosen == "temperature"
    assert (
        auto.reason
        == "the target does not look harder than the labeled questions, and there are 600 labels, fewer than 1,000"
    )
    plain = by_name("temperature").fit(logits[:600], labels[:600], weights=np.arange(600.0))
    assert np.array_equal(auto.transform(logits), plain.transform(logits))
    assert by_name("auto").fit(logits, logits / 3).chosen == "reference_agreement"
    scores, happened = logits[:, 1] - logits[:, 0], labels == 1
    auto = by_name("auto").fit(scores, happened)
    assert auto.chosen == "platt"
    assert auto.transform(scores).shape == (1200,)


def test_only_what_it_would_choose_is_loaded():
    with pytest.raises(ValueError, match="not 'ensemble'"):
        by_name("auto").set_parameters({"base": {"method": "ensemble", "parameters": {}}})
    with pytest.raises(ValueError, match="call fit first"):
        _ = by_name("auto").chosen
