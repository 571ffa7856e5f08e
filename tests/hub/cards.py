"""Card data with real reports, and a card's text as an independent Markdown renderer shows it."""

import re
from functools import cache
from html.parser import HTMLParser

import numpy as np
from markdown_it import MarkdownIt

from hf_calib.hub import CalibrationCardData, DatasetReference, Evaluation
from hf_calib.measures import CalibrationReport


@cache
def report(seed=0, sharpness=1.0, n=300, groups=True):
    """Predictions of which a share is right, at a confidence that grows with `sharpness`."""
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.ones(4), size=n)
    labels = np.array([rng.choice(4, p=row) for row in probabilities])
    sharpened = probabilities**sharpness
    return CalibrationReport.from_predictions(
        sharpened / sharpened.sum(1, keepdims=True),
        labels,
        groups=np.array([f"subject {i % 2}" for i in range(n)]) if groups else None,
        option_mass=np.full(n, 0.9),
        n_resamples=100,
    )


def card_data(**changes):
    values = {
        "model_name": "tiny-dpo-calibrated",
        "hub_model_id": "ann/adapter",
        "base_model": "lab/tiny",
        "base_model_revision": "0123abc",
        "alignment": "DPO",
        "preference_data": DatasetReference("lab/pairs", split="train", size=4000),
        "calibration_data": DatasetReference("lab/questions", "rare", "train", "fedc", 1500),
        "method": "Calibration-aware fine-tuning (CFT)",
        "settings": {"learning_rate": 1e-4, "anchor_weight": 5.0},
        "evaluations": (
            Evaluation(
                DatasetReference("cais/mmlu", "all", "test", "abc123"),
                {"base": report(0), "before": report(0, 3.0), "after": report(0, 1.1)},
                in_domain=True,
            ),
            Evaluation(DatasetReference("allenai/openbookqa", split="test"), {"after": report(1)}, in_domain=False),
        ),
        "regime": "Calibratable.",
        "prompt_format": {"cue": "Answer:"},
        "option_counts": (4,),
        "subjects": ("law", "medicine"),
        "adapter_type": "LoRA",
        "hardware": "CPU",
        "duration_seconds": 61.0,
        "energy_kwh": 0.0123,
        "versions": {"PEFT": "0.21.2", "TRL": "1.16.0"},
        "license": "apache-2.0",
        "language": "en",
    }
    return CalibrationCardData(**{**values, **changes})


def html(card):
    """Render a card's body as the Hub's site does, raw HTML allowed."""
    body = re.sub(r"\A---\n.*?\n---\n", "", card, count=1, flags=re.DOTALL)
    return MarkdownIt("commonmark", {"html": True}).enable("table").render(body)


class _Texts(HTMLParser):
    def __init__(self):
        super().__init__()
        self.texts, self.tags = [], []

    def handle_data(self, data):
        self.texts.append(data)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)


def shown(card):
    """Give the text that a reader sees, white space reduced, and the tags that there are."""
    parser = _Texts()
    parser.feed(html(card))
    return " ".join(" ".join(parser.texts).split()), parser.tags
