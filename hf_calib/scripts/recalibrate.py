"""Repair the calibration of a model that was aligned elsewhere, without labels."""

from __future__ import annotations

from typing import Any


def main(script_args: Any, training_args: Any, model_args: Any) -> None:
    """Repair, save, report the calibration before and after, and push if requested."""
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import get_peft_config, get_quantization_config

    from ..trainers import RecalibrationTrainer
    from .data import calibration_questions
    from .training import model_options, train_and_save

    for name in ("calibration_dataset", "calibration_reference_model"):
        if getattr(script_args, name) is None:
            raise ValueError(f"--{name} is missing; the repair anchors the model to a reference on questions")

    name, trusted = model_args.model_name_or_path, training_args.trust_remote_code
    tokenizer = AutoTokenizer.from_pretrained(name, revision=model_args.model_revision, trust_remote_code=trusted)
    model = AutoModelForCausalLM.from_pretrained(
        name,
        quantization_config=get_quantization_config(model_args),
        **model_options(model_args, training_args),
    )
    peft_config = get_peft_config(model_args)
    questions = calibration_questions(script_args)
    trainer = RecalibrationTrainer(
        model if peft_config is None else get_peft_model(model, peft_config),
        training_args,
        questions.pop("calibration_dataset"),
        script_args.calibration_reference_model,
        tokenizer,
        **questions,
    )
    train_and_save(trainer)


def make_parser(prog: str | None = None):
    """Return the parser of the script."""
    from trl import ModelConfig

    from ..trainers import RecalibrationConfig
    from .arguments import QuestionArguments
    from .parser import ScriptParser

    return ScriptParser(QuestionArguments, RecalibrationConfig, ModelConfig, description=__doc__, prog=prog)


if __name__ == "__main__":
    from hf_calib.scripts.launch import run

    run(main, make_parser())
