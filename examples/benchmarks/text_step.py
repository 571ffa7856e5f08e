"""
Compare the time of a CFT step on option texts with that of one on letters.

```bash
python examples/benchmarks/text_step.py --threads 1 --clock cpu
```

With letters, a question is one row that lists the options. With texts, it is one copy of the prompt followed by all
texts, each of which attends to the prompt and itself ("packed"), or, for models whose results this changes, a copy of
the prompt for each text ("a row per text"). The runs alternate, and the times are medians over steps. The model is
randomly initialized; LoRA of rank 16 on all linear layers is trained.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path

from dpo_step import CLOCKS, save_model, timed_run

CASES = {"letters": "letters", "texts, packed": "text-tokens", "texts, a row per text": "text-tokens"}


def make_questions(options):
    """Return questions of the requested lengths in tokens."""
    import numpy as np

    from hf_calib.tasks import Question

    rng = np.random.default_rng(options.seed)

    def words(n):
        return " ".join(f"w{number}" for number in rng.integers(options.vocabulary - 100, size=n))

    # "Question:" and "Answer:" are the rest of the prompt.
    return [
        Question(
            words(options.prompt_length - 2),
            tuple(words(options.option_length) for _ in range(options.choices)),
            int(rng.integers(options.choices)),
        )
        for _ in range(options.questions * (options.steps + 1))
    ]


def make_trainer(folder, options, questions, case):
    """Return a trainer of the case."""
    from peft import LoraConfig

    from hf_calib import CalibrationAwareSFTConfig, CalibrationAwareSFTTrainer

    trainer = CalibrationAwareSFTTrainer(
        str(folder),
        args=CalibrationAwareSFTConfig(
            str(folder / "out"),
            calibration_confidence=CASES[case],
            per_device_train_batch_size=options.questions,
            max_steps=options.steps + 1,
            learning_rate=1e-6,
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=True,
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            seed=options.seed,
        ),
        train_dataset=questions,
        peft_config=LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    if case == "texts, a row per text":
        items = trainer._option_items
        trainer._option_collators[type(items[0])] = replace(trainer._questions.collator_of(items), padding_side="left")
    return trainer


def n_tokens(trainer, questions):
    """Return the number of tokens, including padding, in a step of a trainer."""
    items = trainer._questions.encode(questions[: trainer.args.per_device_train_batch_size])
    collator = trainer._option_collators.get(type(items[0])) or trainer._questions.collator_of(items)
    return collator(items).input_ids.numel()


def parse_arguments():
    """Return the command line's options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden_size", type=int, default=512, help="a multiple of 64")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--vocabulary", type=int, default=4096)
    parser.add_argument("--questions", type=int, default=4, help="questions per step")
    parser.add_argument("--prompt_length", type=int, default=32, help="tokens of a prompt without options")
    parser.add_argument("--option_length", type=int, default=5, help="tokens of an option's text")
    parser.add_argument("--choices", type=int, default=4, help="options per question")
    parser.add_argument("--steps", type=int, default=5, help="timed steps per run")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each trainer, in turn")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall", help="cpu: with one thread only")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.clock == "cpu" and options.threads != 1:
        parser.error("--clock cpu: this adds up the time of all threads, also of waiting ones; pass --threads 1")
    return options


def main():
    """Measure all cases and print the table."""
    options = parse_arguments()
    import torch

    from hf_calib.reports import render_table

    torch.set_num_threads(options.threads)
    questions = make_questions(options)
    with tempfile.TemporaryDirectory() as name:
        n_parameters = save_model(name, options)
        trainers = {case: make_trainer(Path(name), options, questions, case) for case in CASES}
        seconds = {case: [] for case in CASES}
        for _ in range(options.rounds):
            for case, trainer in trainers.items():
                seconds[case] += timed_run(trainer, CLOCKS[options.clock])[0]
        tokens = {case: n_tokens(trainer, questions) for case, trainer in trainers.items()}
    own = {case: statistics.median(values) for case, values in seconds.items()}
    print(f"{n_parameters:,} parameters, {options.threads} thread(s), {options.clock} time, "
          f"medians of {options.rounds * options.steps} steps")  # fmt: skip
    print(
        render_table(
            [
                {
                    "confidence": case,
                    "step (s)": own[case],
                    "time ratio": own[case] / own["letters"],
                    "tokens per step": tokens[case],
                    "token ratio": tokens[case] / tokens["letters"],
                }
                for case in CASES
            ]
        )
    )


if __name__ == "__main__":
    main()
