"""RCFT as published: targets from the training set, found once, and no loss in the last bin."""

import numpy as np
import pytest
import torch
from experiments.published_rcft import frozen_targets, published_em_loss

from hf_calib.confidence import Predictions
from hf_calib.regularizers import target_distribution


@pytest.fixture
def before():
    """Predictions of 40 questions of four options, with confidences all over [1/4, 1]."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(40, 4)) * np.linspace(0.1, 5, 40)[:, None]
    scores = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return Predictions(scores, rng.integers(4, size=40), (None,) * 40, np.arange(40))


def test_the_targets_are_the_bins_accuracies_on_the_training_questions(before):
    targets = frozen_targets(before)
    bins = np.minimum((before.confidences * 10).astype(int), 9)
    for index in np.unique(bins):
        confidence = torch.tensor([before.confidences[bins == index][0]])
        assert targets.target_confidence(confidence).item() == pytest.approx(before.correct[bins == index].mean())
    # A bin that no training question is in pulls nowhere.
    assert targets.target_confidence(torch.tensor([0.05])).item() == pytest.approx(0.05)


def test_only_the_last_bin_has_no_loss_and_no_gradient(before):
    targets = frozen_targets(before)
    p = torch.tensor(before.probabilities, requires_grad=True)
    loss = published_em_loss(p, targets)
    last = torch.from_numpy(before.confidences >= 0.9)
    assert 0 < last.sum() < len(last)
    assert (loss[last] == 0).all()
    loss.sum().backward()
    assert (p.grad[last] == 0).all()
    exists = torch.ones(p.shape, dtype=torch.bool)
    top = targets.target_confidence(torch.from_numpy(before.confidences))
    expected = ((p.detach() - target_distribution(p, top, exists, "tanh")) ** 2).sum(dim=1)
    torch.testing.assert_close(loss.detach()[~last].double(), expected[~last], rtol=1e-5, atol=1e-6)
    with_all = published_em_loss(p, targets, all_bins=True)
    torch.testing.assert_close(with_all.detach().double(), expected, rtol=1e-5, atol=1e-6)
    assert (with_all[last] > 0).any()
