"""The effect that each method's paper claims, on a small task of its kind, over seeds.

python examples/calibrators/effects.py --seeds 10
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
from over_seeds import Results, measured, over_seeds, write_figures
from scipy.special import expit, log_softmax, ndtr, softmax

from hf_calib import measures as m
from hf_calib.calibrators import by_name
from hf_calib.calibrators.arrays import fit_array, transform_array
from hf_calib.calibrators.sample_consistency import consistency
from hf_calib.reports import render_table


def draw(probabilities, rng):
    """Return an option for each row, drawn from its probabilities."""
    return (rng.random((len(probabilities), 1)) > probabilities[:, :-1].cumsum(axis=1)).sum(axis=1)


def coverage_error(cdf, predictions, outcomes):
    """Return the mean distance of 99 levels from the shares of outcomes below their quantiles, in [0, 0.5]."""
    levels = np.arange(1, 100) / 100
    return float(np.abs((cdf(predictions, outcomes)[:, None] <= levels).mean(axis=0) - levels).mean())


def gaussian_cdf(predictions, values):
    """Return the normal distribution function of predictions (n, 2) of mean and standard deviation."""
    return ndtr((values - predictions[:, 0]) / predictions[:, 1])


def event_measures(probabilities, happened):
    """Return ECE and NLL of events' probabilities, and the AUC, which no monotonic map changes."""
    p = np.clip(probabilities, 1e-12, 1 - 1e-12)
    return {
        "ECE": m.expected_calibration_error(p, happened),
        "NLL": float(-np.where(happened, np.log(p), np.log1p(-p)).mean()),
        "AUC": m.auroc(p, happened),
    }


def monotonic_network(seed: int) -> Results:
    """Ranking scores and rewards whose true rates increase in waves, which no parametric form fits."""
    rng = np.random.default_rng(seed)

    def sample(n):
        x = rng.normal(0, 2, n)
        rate = expit(0.3 * x + 2.0 * np.tanh(4 * (x - 1)) - 1.0)
        return x, rng.random(n) < rate

    scores, clicks = sample(3000)
    new, happened = sample(20_000)
    result = {"scores as they are": event_measures(expit(new), happened)}
    for name in ("temperature", "platt", "monotonic_network"):
        calibrator = by_name(name).fit(scores, clicks)
        result[name] = event_measures(calibrator.transform(new), happened)
    plain = by_name("monotonic_network", smooth_calibration_weight=0.0).fit(scores, clicks)
    result["monotonic_network, log-loss only"] = event_measures(plain.transform(new), happened)

    # A reward model's score of an answer, and whether a person accepts it: hardly any below a bar, most above it.
    def rewards(n):
        quality = rng.normal(0, 1, n)
        return 3 * quality + rng.normal(0, 0.5, n), rng.random(n) < 0.05 + 0.85 * (quality > 0.5)

    scores, accepted = rewards(2000)
    new, happened = rewards(20_000)
    for name in ("platt", "monotonic_network"):
        calibrator = by_name(name).fit(scores, accepted)
        result[f"rewards: {name}"] = event_measures(calibrator.transform(new), happened)
    return result


def simplex_etf(seed: int) -> Results:
    """A classifier head trained for long on few noisy examples, and the simplex head in addition."""
    import torch

    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(5, 40)) * 0.45

    def sample(n):
        y = rng.integers(5, size=n)
        return centres[y] + rng.normal(size=(n, 40)), y

    x, y = sample(400)
    held_x, held_y = sample(400)
    new_x, new_y = sample(5000)
    torch.manual_seed(seed)
    head = torch.nn.Sequential(torch.nn.Linear(40, 64), torch.nn.ReLU(), torch.nn.Linear(64, 5))
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-2)
    for _ in range(150):
        loss = torch.nn.functional.cross_entropy(head(torch.tensor(x, dtype=torch.float32)), torch.tensor(y))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        held, new = (head(torch.tensor(part, dtype=torch.float32)).numpy() for part in (held_x, new_x))
    calibrator = by_name("simplex_etf", seed=seed).fit(held, held_y, features=held_x)
    return {
        "learned head": measured(softmax(new.astype(float), axis=1), new_y),
        "temperature": measured(by_name("temperature").fit(held, held_y).transform(new), new_y),
        "simplex_etf": measured(calibrator.transform(new, features=new_x), new_y),
    }


def sample_consistency(seed: int) -> Results:
    """Twenty sampled answers to each question; the stated confidence is nearly always high."""
    rng = np.random.default_rng(seed)

    def sample(n):
        ability = rng.normal(0.6, 1.2, n)
        logits = rng.normal(0, 0.7, (n, 5))
        logits[:, 0] += 1.3 * ability
        p = softmax(1.6 * logits, axis=1)
        votes = np.stack([np.bincount(rng.choice(5, 20, p=row), minlength=5) for row in p]) / 20
        answer = draw(softmax(logits, axis=1), rng)
        stated = np.clip(0.92 + 0.02 * ability + rng.normal(0, 0.04, n), 0.5, 1)
        return votes, answer, stated

    votes, answers, _ = sample(1000)
    new, new_answers, stated = sample(4000)
    correct = new.argmax(axis=1) == new_answers

    def row(c):
        return {"ECE": m.expected_calibration_error(c, correct), "Brier": float(((c - correct) ** 2).mean()),
                "AUROC": m.auroc(c, correct)}  # fmt: skip

    result = {"stated confidence": row(stated)}
    result |= {name: row(confidence) for name, confidence in consistency(new).items()}
    calibrator = by_name("sample_consistency").fit(votes, answers, kind="probabilities")
    result["sample_consistency"] = row(calibrator.transform(new, kind="probabilities").max(axis=1))
    return result


def adaptive_ensemble(seed: int) -> Results:
    """A target that is harder than the labeled questions: the same noise on a weaker signal."""
    rng = np.random.default_rng(seed)

    def sample(n, strength):
        y = rng.integers(10, size=n)
        return 3 * (strength * np.eye(10)[y] + rng.normal(size=(n, 10))), y

    logits, labels = sample(3000, 3.0)
    result, plain = {}, by_name("temperature").fit(logits, labels)
    for title, strength in (("same", 3.0), ("harder", 1.5)):
        target, answers = sample(5000, strength)
        everything = np.concatenate([logits, target])
        known = np.concatenate([labels, np.full(len(target), -1)])
        ours = by_name("adaptive_ensemble").fit(everything, known)
        result[f"{title}: as it is"] = measured(softmax(target, axis=1), answers)
        result[f"{title}: temperature"] = measured(plain.transform(target), answers)
        result[f"{title}: adaptive_ensemble"] = measured(ours.transform(target), answers)
    return result


def selective_scaling(seed: int) -> Results:
    """Segmented images, overconfident at the edges of objects; and tokens, most of them certain, some open."""
    rng = np.random.default_rng(seed)

    def images(n):
        edge = rng.random((n, 24, 24)) < 0.2
        y = rng.integers(4, size=(n, 24, 24))
        signal = np.where(edge, 0.3, 5.0)
        logits = np.moveaxis(np.eye(4)[y] * signal[..., None] + rng.normal(0, 1.0, (*y.shape, 4)), -1, 1)
        # Too sharp at edges, not sharp enough inside.
        return logits * np.where(edge, 1.5, 0.8)[:, None], y

    logits, labels = images(12)
    new, answers = images(40)
    flat = np.moveaxis(new, 1, -1).reshape(-1, 4)
    result = {"as it is": measured(softmax(flat, axis=1), answers.ravel())}
    for name in ("temperature", "selective_scaling"):
        calibrator = fit_array(by_name(name), logits, labels, axis=1)
        p = np.moveaxis(transform_array(calibrator, new, axis=1), 1, -1).reshape(-1, 4)
        result[name] = measured(p, answers.ravel())

    # Sequences of up to 40 tokens of 20 words: what follows is mostly certain, and one token in four is open.
    def sequences(n):
        open_token = rng.random((n, 40)) < 0.25
        y = rng.integers(20, size=(n, 40))
        logits = np.eye(20)[y] * np.where(open_token, 0.5, 8.0)[..., None] + rng.normal(0, 1.0, (n, 40, 20))
        y[np.arange(40) >= rng.integers(10, 41, size=n)[:, None]] = -100
        return logits * np.where(open_token, 1.6, 0.8)[..., None], y

    logits, labels = sequences(100)
    new, answers = sequences(600)
    kept = answers != -100
    result["tokens: as they are"] = measured(softmax(new[kept], axis=1), answers[kept])
    for name in ("temperature", "selective_scaling"):
        calibrator = fit_array(by_name(name), logits, labels)
        result[f"tokens: {name}"] = measured(transform_array(calibrator, new)[kept], answers[kept])
    return result


def modular_conformal(seed: int) -> Results:
    """A regression with skewed, uneven noise whose predictor assumes small normal errors."""
    rng = np.random.default_rng(seed)

    def sample(n):
        x = rng.uniform(0, 3, n)
        y = np.sin(2 * x) + (0.2 + 0.3 * x) * (rng.exponential(size=n) - 1)
        return np.column_stack([np.sin(2 * x), 0.5 * (0.2 + 0.3 * x)]), y

    held, outcomes = sample(500)
    new, values = sample(4000)

    def row(cdf, low, high):
        return {
            "mean |level - share|": coverage_error(cdf, new, values),
            "coverage of 90%": float(((values >= low) & (values <= high)).mean()),
            "width": float((high - low).mean()),
        }

    result = {"as it is": row(gaussian_cdf, *(new[:, 0] + side * 1.645 * new[:, 1] for side in (-1, 1)))}
    for predictor, columns in (("point", 1), ("gaussian", 2)):
        for interpolation in ("step", "linear"):
            ours = by_name("modular_conformal", predictor=predictor, interpolation=interpolation)
            ours.fit(held[:, :columns], outcomes)

            def cdf(p, y, ours=ours, columns=columns):
                return ours.cdf(p[:, :columns], y)

            result[f"{predictor}, {interpolation}"] = row(cdf, *ours.interval(new[:, :columns], 0.9).T)
    return result


def meta_calibration(seed: int, *, by_unit: bool = True) -> Results:
    """A linear head, fully trained on few examples: plain, with DECE, smoothed; then with two similar classes."""
    import torch

    from hf_calib.calibrators.differentiable_ece import differentiable_ece
    from hf_calib.calibrators.meta_calibration import learn_smoothing, smoothed_labels

    rng = np.random.default_rng(seed)
    there = torch.ones(200, 4, dtype=torch.bool)

    def sample(n, centres):
        y = rng.integers(4, size=n)
        return centres[y] + rng.normal(size=(n, 30)), y

    def head(train, new, smoothing, error_weight=0.0):
        (x, y), (new_x, new_y) = train, new
        inputs, labels = torch.tensor(x), torch.tensor(y)
        targets = smoothed_labels(labels, there, torch.tensor(smoothing))
        weight, bias = torch.zeros(4, 30, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)
        optimizer = torch.optim.Adam([weight.requires_grad_(), bias.requires_grad_()], lr=0.05)
        for _ in range(300):
            logits = inputs @ weight.T + bias
            loss = -(targets * logits.log_softmax(dim=1)).sum(dim=1).mean()
            if error_weight:
                loss = loss + error_weight * differentiable_ece(logits, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return measured(softmax(new_x @ weight.detach().numpy().T + bias.detach().numpy(), axis=1), new_y)

    centres = rng.normal(size=(4, 30)) * 0.4
    given = sample(200, centres), sample(5000, centres)
    result = {
        "log-loss": head(*given, np.zeros(4)),
        "log-loss + DECE on the training set": head(*given, np.zeros(4), 1.0),
        "smoothing 0.05": head(*given, np.full(4, 0.05)),
        "smoothing learned on held-out halves": head(*given, learn_smoothing(*given[0], seed=seed)),
    }
    if not by_unit:
        return result
    result["the same for each unit"] = head(*given, learn_smoothing(*given[0], seed=seed, per="unit"))
    # The first two classes are confused with each other, so a label should give a share to the other one.
    centres = rng.normal(size=(4, 30)) * 0.6
    centres[1] = centres[0] + 0.1 * rng.normal(size=30)
    given = sample(200, centres), sample(5000, centres)
    result["two alike: smoothing 0.05"] = head(*given, np.full(4, 0.05))
    for per in ("class", "unit"):
        learned = learn_smoothing(*given[0], seed=seed, per=per)
        result[f"two alike: learned for each {per}"] = head(*given, learned)
    return result


def localized(seed: int) -> Results:
    """Two kinds of questions that the features distinguish: overconfident on one, underconfident on the other."""
    rng = np.random.default_rng(seed)

    def sample(n):
        kind = rng.random(n) < 0.5
        logits = rng.normal(0, 1.2, (n, 4))
        labels = draw(softmax(logits, axis=1), rng)
        features = rng.normal(0, 0.5, (n, 4))
        features[:, 0] += np.where(kind, 1.5, -1.5)
        return np.where(kind, 3.0, 0.5)[:, None] * logits, labels, features

    logits, labels, features = sample(2000)
    new, answers, phi = sample(4000)
    result = {}

    def row(p):
        correct = p.argmax(axis=1) == answers
        local = m.local_calibration_error(p.max(axis=1), correct, phi, gamma=0.5)
        return {**measured(p, answers), "LCE": local.mean, "MLCE": local.maximum}

    result["as it is"] = row(softmax(new, axis=1))
    for name in ("temperature", "histogram", "localized"):
        options = {"features": features} if name == "localized" else {}
        calibrator = by_name(name).fit(logits, labels, **options)
        result[name] = row(calibrator.transform(new, **({"features": phi} if name == "localized" else {})))
    return result


def ensemble(seed: int) -> Results:
    """Five nearly calibrated members that differ by independent noise: their average is underconfident."""
    rng = np.random.default_rng(seed)

    def members(n):
        signal = rng.normal(0, 1, (n, 4))
        y = draw(softmax(2 * signal, axis=1), rng)
        return 1.5 * (signal + rng.normal(0, 0.8, (5, n, 4))), y

    held, labels = members(1000)
    new, answers = members(5000)
    single = by_name("temperature").fit(held[0], labels).transform(new[0])
    pooled = softmax(new, axis=-1).mean(axis=0)
    result = {"one member, calibrated": measured(single, answers), "pooled": measured(pooled, answers)}
    for order in ("calibrate_then_pool", "pool_then_calibrate"):
        calibrator = by_name("ensemble", order=order).fit(held, labels)
        result[order.replace("_", " ")] = measured(calibrator.transform(new), answers)
    return result


def importance_weighted(seed: int) -> Results:
    """Two kinds of questions, overconfident on one only; their shares differ in the target."""
    rng = np.random.default_rng(seed)

    def sample(n, share):
        kind = rng.random(n) < share
        logits = rng.normal(0, 1.2, (n, 4))
        labels = draw(softmax(logits, axis=1), rng)
        features = rng.normal(size=(n, 3))
        features[:, 0] += np.where(kind, 1.0, -1.0)
        return np.where(kind, 4.0, 1.2)[:, None] * logits, labels, features

    logits, labels, features = sample(3000, 0.15)
    target, answers, phi = sample(5000, 0.85)
    everything = np.concatenate([logits, target])
    known = np.concatenate([labels, np.full(len(target), -1)])
    ours = by_name("importance_weighted").fit(everything, known, features=np.concatenate([features, phi]))
    return {
        "as it is": measured(softmax(target, axis=1), answers),
        "temperature, source labels": measured(by_name("temperature").fit(logits, labels).transform(target), answers),
        "importance_weighted": measured(ours.transform(target), answers),
        "temperature, target labels": measured(by_name("temperature").fit(target, answers).transform(target), answers),
    }


def reference_agreement(seed: int) -> Results:
    """An aligned model that is the reference, sharpened and changed on some questions; no answers are used."""
    rng = np.random.default_rng(seed)

    def sample(n):
        reference = rng.normal(0, 1.2, (n, 4))
        labels = draw(softmax(reference, axis=1), rng)
        return reference, 3.0 * (reference + rng.normal(0, 0.4, reference.shape)), labels

    reference, aligned, _ = sample(1000)
    _, new, answers = sample(5000)
    target, grid = softmax(reference, axis=1), np.exp(np.linspace(-2, 4, 400))
    losses = [-(target * log_softmax(aligned / temperature, axis=1)).sum() for temperature in grid]
    held = sample(1000)
    return {
        "as it is": measured(softmax(new, axis=1), answers),
        "fitted to the reference everywhere": measured(softmax(new / grid[int(np.argmin(losses))], axis=1), answers),
        "reference_agreement": measured(
            by_name("reference_agreement").fit(aligned, reference).transform(new), answers
        ),
        "temperature, 1,000 labels": measured(by_name("temperature").fit(held[1], held[2]).transform(new), answers),
    }


EFFECTS: dict[str, Callable[[int], Results]] = {
    function.__name__: function
    for function in (adaptive_ensemble, ensemble, importance_weighted, localized, meta_calibration, modular_conformal,
                     monotonic_network, reference_agreement, sample_consistency, selective_scaling, simplex_etf)
}  # fmt: skip


def main():
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help=f"which: {', '.join(EFFECTS)} (default: all)")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--write", action="store_true", help="also insert the figures into this folder's pages")
    arguments = parser.parse_args()
    for name in arguments.names or EFFECTS:
        table = render_table(over_seeds(EFFECTS[name], arguments.seeds))
        print(f"{name}: {EFFECTS[name].__doc__}\n\n{table}\n")
        if arguments.write:
            write_figures(Path(__file__).with_name(f"{name}.md"), table)


if __name__ == "__main__":
    main()
