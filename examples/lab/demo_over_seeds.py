"""
Run the demo with several seeds and print, for each method, the mean over the seeds and the lowest and highest.

```bash
python examples/lab/demo_over_seeds.py --seeds 0 1 2 3 4 --out demo-seeds
```

Seeds whose results are in the folder already are skipped.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

COLUMNS: dict[str, Callable[[dict[str, Any]], float]] = {
    "ECE, in": lambda result: result["in"]["measures"]["ece"]["value"],
    "ECE, off": lambda result: result["out"]["measures"]["ece"]["value"],
    "accuracy, in": lambda result: result["in"]["measures"]["accuracy"]["value"],
    "accuracy, off": lambda result: result["out"]["measures"]["accuracy"]["value"],
    "win rate": lambda result: result["win_rate"]["multiple_choice"],
    "open win rate": lambda result: result["win_rate"]["open"],
}


def summarize(results: list[dict[str, Any]]) -> str:
    """Return a Markdown table of mean [lowest, highest] over the seeds' `results.json`, a row for each method."""
    lines = [f"| {' | '.join(['model', *COLUMNS])} |", "|---" * (1 + len(COLUMNS)) + "|"]
    for method in results[0]:
        cells = [method]
        for value in COLUMNS.values():
            values = [value(result[method]) for result in results]
            cells.append(f"{sum(values) / len(values):.3f} [{min(values):.3f}, {max(values):.3f}]")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Run what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--preset", default="demo", help="of hf_calib.lab.PRESETS")
    parser.add_argument("--out", type=Path, default=Path("demo-seeds"))
    options = parser.parse_args()
    results = []
    for seed in options.seeds:
        folder = options.out / str(seed)
        if not (folder / "results.json").is_file():
            command = [sys.executable, "-m", "hf_calib.cli", "demo", "--preset", options.preset]
            subprocess.run([*command, "--seed", str(seed), "--out", str(folder)], check=True)
        results.append(json.loads((folder / "results.json").read_text(encoding="utf-8")))
    print(summarize(results))


if __name__ == "__main__":
    main()
