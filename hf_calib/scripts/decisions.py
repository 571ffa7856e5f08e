"""Fine-tune a decision model: soft targets, an ECE regularizer toward accuracy, and one temperature per type."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..tasks import Question, QuestionError, TypedDecisions

if TYPE_CHECKING:
    from ..calibrators import GroupedTemperature
    from ..confidence import LocalDecisions


@dataclass
class DecisionArguments:
    """The cases that a decision model is trained and measured on.

    Parameters
    ----------
    dataset_name : str
        Training cases with gold answers: a Parquet or JSON(L) file, a folder, or a Hub dataset as
        name[:config[:split]].
    test_dataset : str, optional
        Cases to measure on, before and after.
    held_out : float, default 0.2
        Share of the training cases that are not trained on; the temperatures and the regularizer's bins are fitted to
        them.
    orders : int, default 1
        Copies of each training question, all but the first with its options in a random order.
    limit : int, optional
        Largest number of cases per dataset, drawn at random.
    """

    dataset_name: str = field(
        metadata={
            "help": "Training cases: a Parquet or JSON(L) file, a folder, or a Hub dataset name[:config[:split]]."
        }
    )
    test_dataset: str | None = field(default=None, metadata={"help": "Cases to measure on, before and after."})
    held_out: float = field(
        default=0.2, metadata={"help": "Share of the training cases for the temperatures and the regularizer's bins."}
    )
    orders: int = field(
        default=1, metadata={"help": "Copies of each question; all but the first have their options in random order."}
    )
    limit: int | None = field(default=None, metadata={"help": "Largest number of cases per dataset, drawn at random."})

    def __post_init__(self) -> None:
        if not 0 < self.held_out < 1:
            raise ValueError(f"held_out must lie between 0 and 1, got {self.held_out}")
        if self.orders < 1:
            raise ValueError(f"orders must be at least 1, got {self.orders}")


def split_cases(cases: TypedDecisions, share: float, seed: int = 0) -> tuple[TypedDecisions, TypedDecisions]:
    """Return the cases to train on, and a share that is held out; whole cases, drawn at random.

    Raises
    ------
    ValueError
        If one of the two would be empty.
    """
    n = round(share * len(cases))
    if not 0 < n < len(cases):
        raise ValueError(
            f"held_out: a share of {share} of {len(cases)} cases leaves one of the two parts empty; give more cases"
        )
    order = np.random.default_rng(seed).permutation(len(cases))
    return cases.at(sorted(order[n:].tolist())), cases.at(sorted(order[:n].tolist()))


def training_questions(cases: TypedDecisions, orders: int = 1, seed: int = 0) -> list[Question]:
    """Return all questions, and `orders` - 1 more copies with their options in random orders."""
    copies = [cases.questions(permute=seed + number) for number in range(1, orders)]
    return [question for questions in (cases.questions(), *copies) for question in questions]


def fitted_temperatures(trainer: Any, held_out: TypedDecisions) -> GroupedTemperature:
    """Return one temperature per question type for a trainer's model."""
    from ..evaluation import fit_temperatures, measure_decisions

    return fit_temperatures(measure_decisions(decisions_of(trainer), held_out, progress=False))


def decisions_of(trainer: Any) -> LocalDecisions:
    """Return a trainer's model as a source of decisions, asked as it is trained."""
    from ..confidence import LocalDecisions, LocalModel

    return LocalDecisions(LocalModel(trainer.calibrated_model, trainer.processing_class), trainer.prompt_format)


def main(script_args: DecisionArguments, training_args: Any, model_args: Any) -> None:
    """Train, fit the temperatures, save both, and report the figures before and after."""
    from ..evaluation import measure_decisions
    from ..evaluation.decisions import prior_answers
    from ..hub import add_calibrator
    from ..hub.decisions import remove_decision_results, write_decision_results
    from ..reports.table import render_table
    from ..trainers import CalibrationAwareSFTTrainer
    from .data import published_name
    from .training import trainer_options

    if training_args.push_to_hub:
        raise ValueError(
            "push_to_hub: the temperatures and the results are written after training; leave it out, and publish the "
            f"folder: hf-calib publish adapter {training_args.output_dir} --repo your-name/your-model"
        )
    seed = training_args.seed
    cases = TypedDecisions.load(script_args.dataset_name, limit=script_args.limit, seed=seed)
    test = None
    if script_args.test_dataset is not None:
        test = TypedDecisions.load(script_args.test_dataset, limit=script_args.limit, seed=seed)
    trained, held_out = split_cases(cases, script_args.held_out, seed)
    trainer = CalibrationAwareSFTTrainer(
        train_dataset=training_questions(trained, script_args.orders, seed),
        em_dataset=held_out.questions() if training_args.em_weight > 0 else None,
        **trainer_options(training_args, model_args),
    )
    say: Callable[..., None] = trainer.accelerator.print
    measured: dict[str, Any] = {}
    prior_from: TypedDecisions | None = None
    if test is not None:
        try:
            prior_answers(trained, test)
            prior_from = trained
        except QuestionError as error:  # for example, options differ from case to case
            say(f"Left out the reference row for the mean answer of the training cases: {error}")

    def measure(name: str) -> None:
        if test is not None:
            measured[name] = measure_decisions(decisions_of(trainer), test, prior_from=prior_from)

    measure("before")
    trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint)
    temperatures = fitted_temperatures(trainer, held_out)
    measure("after")
    if test is not None:
        measured["after, temperatures"] = measured["after"].calibrated(temperatures)
    trainer.save_model(training_args.output_dir)
    remove_decision_results(training_args.output_dir)  # of the weights that were there before
    trainer.create_model_card(dataset_name=published_name(script_args.dataset_name))
    add_calibrator(training_args.output_dir, temperatures)
    shown = ", ".join(f"{kind} {value:.2f}" for kind, value in temperatures.parameters()["groups"].items())
    say(f"Model saved to {training_args.output_dir}, with the temperatures {shown}.")
    if test is None:
        return
    rows = [{"": name, **{key: own.value for key, own in result.figures.items()}} for name, result in measured.items()]
    say(render_table(rows))
    final = measured["after, temperatures"]
    final.save(training_args.output_dir)
    lacking = sum(own.gold is None for own in test.decisions)
    if lacking:
        say(f"The card has no figures: {lacking} of {len(test.decisions)} test decisions have no gold distribution.")
        return
    write_decision_results(
        training_args.output_dir,
        final,
        script_args.test_dataset,
        training=f"fine-tuned on {published_name(script_args.dataset_name)}",
    )


def make_parser(prog: str | None = None):
    """Return the script's parser."""
    from trl import ModelConfig

    from ..trainers import CalibrationAwareSFTConfig
    from .parser import ScriptParser

    return ScriptParser(DecisionArguments, CalibrationAwareSFTConfig, ModelConfig, description=__doc__, prog=prog)


if __name__ == "__main__":
    from hf_calib.scripts.launch import run

    run(main, make_parser())
