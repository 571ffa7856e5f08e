"""
Write the questions for the files in this folder: 3,000 to train on and 1,500 others to measure on, in equal shares
from MMLU, MedMCQA and OpenBookQA.

```bash
python examples/paper/questions.py --output_dir questions
```
"""

import argparse
import json
from pathlib import Path

SOURCES = ("cais/mmlu:all:test", "openlifescienceai/medmcqa:default:train", "allenai/openbookqa:main:train")


def main(args: argparse.Namespace) -> None:
    """Draw the questions and write train.jsonl and held_out.jsonl."""
    import numpy as np

    from hf_calib import load_questions

    rng = np.random.default_rng(args.seed)
    splits = {"train": args.train, "held_out": args.held_out}
    rows: dict[str, list[dict]] = {name: [] for name in splits}
    for source in args.sources:
        questions = [question for question in load_questions(source) if question.answer is not None]
        wanted = sum(splits.values()) // len(args.sources)
        if len(questions) < wanted:
            raise ValueError(f"{source} has {len(questions)} answered questions, but {wanted} are needed")
        order = iter(rng.permutation(len(questions)))
        for name, total in splits.items():
            for _ in range(total // len(args.sources)):
                question = questions[next(order)]
                rows[name].append(
                    {
                        "context": question.context,
                        "question": question.question,
                        "choices": list(question.choices),
                        "answer": question.answer,
                        "subject": question.subject or source.split(":")[0],
                    }
                )
    args.output_dir.mkdir(parents=True, exist_ok=True)
    for name, chosen in rows.items():
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in chosen)
        (args.output_dir / f"{name}.jsonl").write_text(text, encoding="utf-8")
        print(f"{len(chosen)} questions in {args.output_dir / name}.jsonl")


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the script."""
    parser = argparse.ArgumentParser(description=__doc__.strip().split("\n\n")[0])
    parser.add_argument("--sources", nargs="+", default=SOURCES, help="As hf_calib.load_questions takes them.")
    parser.add_argument("--train", type=int, default=3000, help="Questions to train on, over all sources.")
    parser.add_argument("--held_out", type=int, default=1500, help="Questions to measure on, over all sources.")
    parser.add_argument("--seed", type=int, default=0, help="Of the draw.")
    parser.add_argument("--output_dir", type=Path, default=Path("questions"), help="Where to write.")
    return parser


if __name__ == "__main__":
    main(make_parser().parse_args())
