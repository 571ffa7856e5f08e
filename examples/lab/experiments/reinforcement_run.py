"""Run reinforcement learning on seeds of the fixed world, resuming earlier runs."""

from __future__ import annotations

import io
import tempfile
import time
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hf_calib.lab.bench import make_bench
from hf_calib.lab.cache import cache_key, library_versions
from hf_calib.lab.names import DOMAINS
from hf_calib.lab.preferences import MULTIPLE_CHOICE, OPEN
from hf_calib.lab.pretraining import pretrained_folder
from hf_calib.reports import render_table
from hf_calib.reports.table import Cell

from .compared import SETTINGS_SEEDS
from .examination import Examination
from .experiment import LIBRARIES, code_digest
from .presets import EXPERIMENTS
from .reinforcement import check_available, mean_open_reward, reinforced, reinforcement_settings
from .results import Results, load_rows
from .run import MEASURES, check_names, check_seeds_and_jobs, quietly_on_one_thread, run_all
from .sweep_report import mean_over_seeds
from .sweeps import REINFORCE_KEYS, REINFORCED, WORLD, sweep_preset

FILES: dict[str, Any] = {"file": "reinforce.json", "runs": "reinforce_runs", "row_keys": REINFORCE_KEYS}
_SOURCES = ("experiments/reinforcement.py", "regularizers/anchor.py", "trainers/calibration_term.py")


@dataclass(frozen=True)
class ReinforcementTask:
    """What one process does at a time: all methods on one seed."""

    out: Path
    preset: str
    seed: int
    methods: tuple[str, ...]
    cache_dir: Path | None


def run_reinforcement(
    out: str | Path,
    seeds: Sequence[int],
    *,
    preset: str = "full",
    methods: Sequence[str] = REINFORCED[:2],
    jobs: int = 1,
    cache_dir: str | Path | None = None,
) -> Path:
    """Train the pre-trained model on its own replies, without and with the anchor, and measure the results.

    Methods that already have a result with the same settings in the folder are skipped.

    Parameters
    ----------
    out : str or Path
        Gets ``reinforce.json``, a list of rows with the keys `experiments.sweeps.REINFORCE_KEYS`, and the folder
        ``reinforce_runs`` that it is made from. The pre-trained model's rows are there too.
    seeds : sequence of int
        Seeds of the world, the model and the data.
    preset : str, default "full"
        Key of `experiments.presets.EXPERIMENTS`.
    methods : sequence of str, default ("grpo", "calibration-aware-grpo")
        Of `experiments.sweeps.REINFORCED`.
    jobs : int, default 1
        Number of processes, each with its own seed on one thread.
    cache_dir : str or Path, optional
        Where pre-trained models are kept; see `hf_calib.lab.pretrained_folder`.

    Returns
    -------
    Path
        Of the results file.

    Raises
    ------
    TrainerUnavailableError
        For PPO, if the installed TRL has none.
    ValueError
        For an unknown preset or method, no seed or a negative one, fewer than one job, or a folder that has results
        of another preset.
    """
    check_names("method", methods, REINFORCED)
    check_names("preset", [preset], EXPERIMENTS)
    check_seeds_and_jobs(seeds, jobs)
    check_available(methods)
    out = Path(out)
    results = Results(out, **FILES)
    results.check_preset(preset)
    cache = None if cache_dir is None else Path(cache_dir)
    names = ("pretrained", *methods)
    run_all(run_reinforcement_task, [ReinforcementTask(out, preset, seed, names, cache) for seed in seeds], jobs)
    return results.file


def run_reinforcement_task(task: ReinforcementTask) -> None:
    """Run the missing methods of a task."""
    preset = sweep_preset(task.preset)
    results = Results(task.out, **FILES)
    with quietly_on_one_thread():
        folder = pretrained_folder(preset, task.seed, cache_dir=task.cache_dir, progress=False)
        settings = reinforcement_settings(task.preset)
        made_of = {
            "preset": asdict(preset),
            "settings": asdict(settings),
            "pretrained": folder.name,
            "code": code_digest(_SOURCES),
            "libraries": library_versions(LIBRARIES),
        }
        # Results with another version of TRL are kept, since no version has both PPO and the newest GRPO.
        keys = {name: cache_key({"method": name, **_without_other_trl(made_of, name)}) for name in task.methods}
        missing = [name for name in task.methods if not results.has(WORLD, task.seed, name, keys[name])]
        if not missing:
            print(f"reinforce, seed {task.seed}: nothing is missing", flush=True)
            return
        with tempfile.TemporaryDirectory(prefix="hf-calib-lab-") as work:
            bench = make_bench(preset, task.seed, folder, Path(work), progress=False)
            examination = Examination(bench, task.out / "models")
            for name in missing:
                results.drop(WORLD, task.seed, name)
                begun = time.perf_counter()
                # Without a progress bar, transformers prints its logs.
                with redirect_stdout(io.StringIO()):
                    cpu = time.process_time()
                    model = bench.pretrained() if name == "pretrained" else reinforced(name, bench, settings)
                    seconds = 0.0 if name == "pretrained" else time.process_time() - cpu
                    rows = _rows(task, name, model.eval(), seconds, examination)
                results.add({"key": keys[name], "preset": task.preset, "rows": rows})
                print(f"reinforce, seed {task.seed}: {name}, {time.perf_counter() - begun:.0f} s", flush=True)


def _without_other_trl(made_of: dict[str, Any], name: str) -> dict[str, Any]:
    if name != "pretrained":
        return made_of
    return {key: value for key, value in made_of.items() if key != "libraries"}


def _rows(
    task: ReinforcementTask, name: str, model: Any, seconds: float, examination: Examination
) -> list[dict[str, Any]]:
    bench, asked = examination.bench, examination.about(model, seconds)
    rows = []
    for domain, said in asked.test.items():
        questions = bench.data.test[domain]
        report = said.report(true_probabilities=questions.true_probabilities, n_resamples=0, groups=None)
        given = questions.true_probabilities[np.arange(len(questions)), said.predicted]
        rows.append(
            {
                "seed": task.seed,
                "reported": task.seed not in SETTINGS_SEEDS,
                "world": WORLD,
                "method": name,
                "domain": domain,
                "n": report.n,
                **{measure: float(report.measures[measure].value) for measure in MEASURES},
                "reward": float(np.log(given).mean()),
                "reward_open": mean_open_reward(bench, model, questions),
                "win_rate": asked.wins[MULTIPLE_CHOICE],
                "win_rate_open": asked.wins[OPEN],
                "seconds": round(seconds, 3),
            }
        )
    return rows


def reinforcement_report(folder: str | Path) -> str:
    """Return tables of the means over all seeds of ``reinforce.json`` by domain, some with 95% intervals.

    Raises
    ------
    FileNotFoundError
        If the folder has no results.
    """
    rows = load_rows(Path(folder) / FILES["file"], REINFORCE_KEYS)
    with_interval = ("accuracy", "ece", "reward", "reward_open")
    others = ("confidence", "nll", "win_rate", "win_rate_open", "seconds")
    lines = [f"Seeds {', '.join(map(str, sorted({row['seed'] for row in rows})))}.", ""]
    for domain in DOMAINS:
        table: list[dict[str, Cell]] = []
        for method in dict.fromkeys(row["method"] for row in rows):
            own = [row for row in rows if (row["method"], row["domain"]) == (method, domain)]
            line: dict[str, Cell] = {"method": method, "seeds": len(own)}
            line |= {key: mean_over_seeds(own, key) for key in with_interval}
            table.append(line | {key: float(np.mean([row[key] for row in own])) for key in others})
        lines += [f"Domain {domain}:", "", render_table(table), ""]
    return "\n".join(lines)
