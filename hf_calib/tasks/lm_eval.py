"""Questions as a task for lm-evaluation-harness."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from .prompts import PromptFormat
from .questions import Question, require_answers

# The harness loads it from the YAML file's folder.
_FUNCTIONS = '''"""What the task's metrics are, as hf_calib computes them."""

from hf_calib.reports.lm_eval import brier, ece, nll, process_results

__all__ = ["brier", "ece", "nll", "process_results"]
'''

_YAML = """task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{prompt}}}}"
doc_to_choice: options
doc_to_target: answer
target_delimiter: {delimiter}
process_results: !function calibration.process_results
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
  - metric: ece
    aggregation: !function calibration.ece
    higher_is_better: false
  - metric: brier
    aggregation: !function calibration.brier
    higher_is_better: false
  - metric: nll
    aggregation: !function calibration.nll
    higher_is_better: false
metadata:
  version: 1.0
"""


def write_lm_eval_task(
    questions: Sequence[Question],
    folder: str | Path,
    name: str,
    *,
    prompt_format: PromptFormat | None = None,
    texts: bool = False,
) -> Path:
    """Write a task for lm-evaluation-harness with the same prompts, which also reports ECE, Brier score and NLL.

    Run it with `lm_eval --include_path FOLDER --tasks NAME`, where hf_calib is installed.

    Parameters
    ----------
    questions : sequence of Question
        With answers.
    folder : path
        For `NAME.yaml`, `NAME.jsonl` and `calibration.py`; created if necessary.
    name : str
        Letters, digits, underscores and dashes.
    prompt_format : PromptFormat, optional
        A plain format; few-shot examples become part of the prompts.
    texts : bool, default False
        Score the options' texts, which the prompt then does not list, instead of their letters.

    Returns
    -------
    Path
        Of the YAML file.

    Raises
    ------
    ValueError
        If the name has other characters, or the format uses the chat template, which the harness applies itself.
    QuestionError
        If an answer is not known.
    """
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise ValueError(f"a task's name has letters, digits, underscores and dashes; got {name!r}")
    prompt_format = prompt_format or PromptFormat()
    if prompt_format.chat:
        raise ValueError("lm-evaluation-harness applies a chat template by itself; give the plain prompt")
    require_answers(questions, "a task")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    data = (folder / f"{name}.jsonl").absolute()
    with data.open("w", encoding="utf-8") as file:
        for question in questions:
            row = {
                "prompt": prompt_format.render(question, options=not texts),
                "context": question.context or "",
                "question": question.question,
                "options": [choice.strip() for choice in question.choices] if texts else list(question.letters),
                "answer": question.answer,
                "subject": question.subject or "",
            }
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    path = folder / f"{name}.yaml"
    delimiter = json.dumps(prompt_format.answer_prefix)
    path.write_text(_YAML.format(name=name, data=json.dumps(str(data)), delimiter=delimiter), encoding="utf-8")
    (folder / "calibration.py").write_text(_FUNCTIONS, encoding="utf-8")
    return path
