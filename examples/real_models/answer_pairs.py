"""
Make preference pairs from multiple-choice questions: the right option is preferred to a wrong one, drawn at random.

```bash
python examples/real_models/answer_pairs.py arc_pairs.jsonl
python examples/real_models/prevent.py --model google/gemma-3-270m --pairs arc_pairs.jsonl
```

The questions are the training questions of ARC-Easy and ARC-Challenge. Each gives one pair.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

from common import load

SOURCES = ("arc_easy_train", "arc_challenge_train")


def make_parser():
    """Return the parser of the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="file to write")
    parser.add_argument("--data", type=Path, help="folder of question files (default: from the Hub)")
    return parser


def main(argv=None):
    """Write the pairs."""
    options = make_parser().parse_args(argv)
    rng = random.Random(0)
    lines = []
    for name in SOURCES:
        for question in load(name, options.data):
            right = question.choices[question.answer]
            wrong = [choice for place, choice in enumerate(question.choices) if place != question.answer]
            row = {"prompt": question.question, "chosen": right, "rejected": rng.choice(wrong)}
            lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    options.out.write_text("".join(lines), encoding="utf-8")
    print(f"Wrote {len(lines)} pairs to {options.out}")


if __name__ == "__main__":
    main()
