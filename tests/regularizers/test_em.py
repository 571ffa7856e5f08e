import json

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from hf_calib.measures import BinStatistics
from hf_calib.regularizers import SHARING_RULES, BinTargets, em_loss

UNIT = st.floats(0, 1)


def targets_of(accuracies, n=1000, **options):
    """Return bins that have these accuracies, seen n times each."""
    targets = BinTargets(len(accuracies), prior_count=0.0, **options)
    targets.counts = torch.full((len(accuracies),), float(n), dtype=torch.float64)
    targets.correct = n * torch.tensor(accuracies, dtype=torch.float64)
    return targets


# The E-step


@given(st.lists(UNIT, min_size=1, max_size=50), st.integers(1, 200))
@example([], 100)
def test_bins_are_closed_on_the_left_and_the_last_on_both_sides(confidences, n_bins):
    confidences += [i / n_bins for i in range(n_bins + 1)]
    bins = BinTargets(n_bins).bin_of(torch.tensor(confidences, dtype=torch.float64)).tolist()
    for confidence, bin_ in zip(confidences, bins, strict=True):
        assert bin_ / n_bins <= confidence
        assert confidence < (bin_ + 1) / n_bins or (bin_ == n_bins - 1 and confidence == 1.0)


@given(st.lists(st.tuples(UNIT, st.booleans()), min_size=1, max_size=50), st.integers(1, 20))
def test_a_refresh_counts_what_the_measures_count(pairs, n_bins):
    confidences, correct = (torch.tensor(values) for values in zip(*pairs, strict=True))
    targets = BinTargets(n_bins)
    targets.update(confidences, correct)
    statistics = BinStatistics.from_predictions(confidences.double().numpy(), correct.numpy(), n_bins)
    assert targets.counts.tolist() == statistics.counts.tolist()
    assert targets.correct.tolist() == pytest.approx(statistics.correct_sums)


def test_a_confidence_of_one_is_in_the_last_bin():
    targets = BinTargets(10)
    confidences = torch.tensor([1.0, 1.0 + 1e-7, 0.9, 0.0], dtype=torch.float64)
    targets.update(confidences, torch.tensor([True, True, False, True]))
    assert targets.counts.tolist() == [1, 0, 0, 0, 0, 0, 0, 0, 0, 3]
    assert targets.correct.tolist() == [1, 0, 0, 0, 0, 0, 0, 0, 0, 2]


def test_older_refreshes_count_less_by_the_momentum():
    targets = BinTargets(2, momentum=0.7)
    refreshes = [([0.6, 0.7, 0.2], [1, 0, 1]), ([0.9], [1]), ([0.1, 0.8, 0.8], [0, 0, 1])]
    counts, correct = np.zeros(2), np.zeros(2)
    for confidences, right in refreshes:
        targets.update(torch.tensor(confidences), torch.tensor(right))
        counts, correct = 0.7 * counts, 0.7 * correct
        for confidence, value in zip(confidences, right, strict=True):
            counts[int(confidence >= 0.5)] += 1
            correct[int(confidence >= 0.5)] += value
    np.testing.assert_allclose(targets.counts, counts)
    np.testing.assert_allclose(targets.correct, correct)


def test_without_momentum_the_last_refresh_alone_counts():
    targets = BinTargets(1, momentum=0.0)
    targets.update(torch.tensor([0.5, 0.5]), torch.tensor([1, 1]))
    targets.update(torch.tensor([0.5]), torch.tensor([0]))
    assert (targets.counts.tolist(), targets.correct.tolist()) == ([1.0], [0.0])


def test_a_target_is_the_bins_accuracy_drawn_towards_the_own_confidence_by_the_prior():
    targets = BinTargets(2, prior_count=2.0)
    targets.update(torch.tensor([0.6, 0.7, 0.8]), torch.tensor([1, 0, 0]))
    targets = targets.target_confidence(torch.tensor([0.9, 0.3]))
    assert targets.tolist() == pytest.approx([(1 + 2 * 0.9) / (3 + 2), 0.3])


@pytest.mark.parametrize("prior_count", [0.0, 2.0])
@given(UNIT)
def test_an_empty_bin_pulls_nowhere(prior_count, confidence):
    confidences = torch.tensor([confidence])
    torch.testing.assert_close(BinTargets(10, prior_count=prior_count).target_confidence(confidences), confidences)


def test_a_bin_that_has_not_been_visited_for_long_keeps_its_accuracy_without_a_prior():
    targets = targets_of([0.25, 0.75], momentum=0.5)
    for _ in range(200):
        targets.update(torch.tensor([0.9]), torch.tensor([1]))
    assert targets.counts[0] < 1e-50
    assert targets.target_confidence(torch.tensor([0.1])).tolist() == pytest.approx([0.25])


@pytest.mark.parametrize("confidence", [torch.nan, -0.1, 1.1, torch.inf])
def test_what_is_no_confidence_is_refused_and_nothing_is_counted(confidence):
    targets = BinTargets(10)
    with pytest.raises(ValueError, match=r"confidences must be in \[0, 1\]; the model's logits may not be finite"):
        targets.update(torch.tensor([0.5, confidence]), torch.tensor([1, 1]))
    assert targets.counts.sum() == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_bins": 0}, "n_bins must be at least 1, got 0"),
        ({"momentum": 1.0}, r"momentum must be in \[0, 1\), got 1.0"),
        ({"momentum": -0.1}, r"momentum must be in \[0, 1\), got -0.1"),
        ({"prior_count": -1.0}, "prior_count must not be negative, got -1.0"),
    ],
)
def test_settings_that_are_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        BinTargets(**options)


@given(st.lists(st.tuples(UNIT, st.booleans()), min_size=1, max_size=30))
def test_the_state_survives_json_exactly(pairs):
    confidences, correct = (torch.tensor(values) for values in zip(*pairs, strict=True))
    targets, restored = BinTargets(7), BinTargets(7)
    for _ in range(3):
        targets.update(confidences, correct)
    restored.load_state_dict(json.loads(json.dumps(targets.state_dict())))
    assert torch.equal(restored.counts, targets.counts)
    assert torch.equal(restored.correct, targets.correct)
    restored.update(confidences, correct)
    targets.update(confidences, correct)
    assert torch.equal(restored.target_confidence(confidences), targets.target_confidence(confidences))


@pytest.mark.parametrize("state", [{"counts": [1.0], "correct": [1.0]}, {"counts": [1.0, 2.0], "correct": [1.0]}])
def test_the_state_of_other_bins_is_refused(state):
    with pytest.raises(ValueError, match="the saved state has 1 bins, this run has 2"):
        BinTargets(2).load_state_dict(state)


# The M-step


@pytest.mark.parametrize("rule", SHARING_RULES)
def test_the_loss_by_hand(rule):
    p = torch.tensor([[0.7, 0.2, 0.1], [0.55, 0.45, 0.0]])
    mask = torch.tensor([[True, True, True], [True, True, False]])
    losses = em_loss(p, mask, targets_of([0.3, 0.6]), rule)
    rest = {"proportional": (0.8 / 3, 0.4 / 3), "uniform": (0.2, 0.2)}
    if rule == "tanh":
        weights = [1 + np.tanh(np.log(3) / 0.4 * value / 0.2) for value in (0.2, 0.1)]
        rest["tanh"] = tuple(0.4 * weight / sum(weights) for weight in weights)
    expected = 0.1**2 + (0.2 - rest[rule][0]) ** 2 + (0.1 - rest[rule][1]) ** 2
    assert losses.tolist() == pytest.approx([expected, 2 * 0.05**2], abs=1e-6)


def confident(confidence, n_options=4, logit_dtype=torch.float64):
    """Return logits of one question whose first option has this probability, and the others unequal ones."""
    others = torch.arange(n_options - 1, 0, -1, dtype=logit_dtype)
    p = torch.cat([torch.tensor([confidence], dtype=logit_dtype), (1 - confidence) * others / others.sum()])
    return p.log()[None].requires_grad_()


@pytest.mark.parametrize("confidence", [0.55, 0.62, 0.75, 0.81, 0.9, 0.93, 0.99, 0.999])
@pytest.mark.parametrize("gap", [-0.2, -0.05, 0.05, 0.2])
def test_the_gradient_pulls_the_confidence_to_the_accuracy_of_its_bin(confidence, gap):
    accuracy = min(max(confidence + gap, 0.45), 1.0)
    logits, mask = confident(confidence), torch.ones(1, 4, dtype=torch.bool)
    p = torch.softmax(logits, dim=1)
    loss = em_loss(p, mask, targets_of([accuracy] * 10))
    assert loss.item() > 0
    loss.sum().backward()
    step = 1e-3 / logits.grad.abs().max()
    after = torch.softmax(logits.detach() - step * logits.grad, dim=1)[0, 0]
    assert (after - confidence) * (accuracy - confidence) > 0


@given(st.floats(0.3, 1.0), st.integers(2, 8), st.sampled_from(SHARING_RULES))
def test_every_bin_has_a_loss(confidence, n_options, rule):
    confidence = max(confidence, 1.01 / n_options)
    mask = torch.ones(1, n_options, dtype=torch.bool)
    p = torch.softmax(confident(min(confidence, 0.999), n_options).detach(), dim=1)
    away = max(1 / n_options, p.max().item() - 0.1) if p.max() > 0.6 else min(1.0, p.max().item() + 0.1)
    assert em_loss(p, mask, targets_of([away] * 10), rule).item() > 0


@pytest.mark.parametrize("confidence", [0.9, 0.95, 1.0])
def test_the_last_bin_has_a_loss_with_a_confidence_of_one_too(confidence):
    p = torch.tensor([[confidence, 1 - confidence, 0.0, 0.0]])
    targets = targets_of([0.0] * 9 + [0.6])
    assert em_loss(p, torch.ones(1, 4, dtype=torch.bool), targets).item() > 0.05


@pytest.mark.parametrize("rule", SHARING_RULES)
@pytest.mark.parametrize(("start", "accuracy"), [(0.95, 0.6), (0.45, 0.8), (0.9, 0.3)])
def test_following_the_gradient_ends_at_the_accuracy(rule, start, accuracy):
    logits, mask = confident(start), torch.ones(1, 4, dtype=torch.bool)
    optimizer = torch.optim.Adam([logits], lr=0.05)
    targets = targets_of([accuracy] * 10)
    for _ in range(400):
        optimizer.zero_grad()
        em_loss(torch.softmax(logits, dim=1), mask, targets, rule).sum().backward()
        optimizer.step()
    p = torch.softmax(logits.detach(), dim=1)[0]
    assert p.max().item() == pytest.approx(accuracy, abs=0.01)
    assert p.argmax() == 0 or accuracy < 0.5  # close to chance a step may carry it past the second option


def test_absent_options_have_no_loss_and_no_gradient():
    logits = torch.tensor([[2.0, 1.0, -torch.inf], [2.0, 1.0, 0.5]], requires_grad=True)
    mask = torch.isfinite(logits.detach())
    em_loss(torch.softmax(logits, dim=1), mask, targets_of([0.55] * 10)).sum().backward()
    assert torch.isfinite(logits.grad).all()
    assert logits.grad[0, 2] == 0
    assert (logits.grad[1] != 0).all()


def test_a_calibrated_model_has_no_loss():
    p = torch.tensor([[0.75, 0.2, 0.05], [0.2, 0.35, 0.45]])
    targets = targets_of([0.05, 0.15, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 0.95])
    assert em_loss(p, torch.ones(2, 3, dtype=torch.bool), targets).tolist() == pytest.approx([0, 0], abs=1e-10)
