"""What the distributed tests run in each process: several trainers, whose traces go into a JSON file.

Run as `python -m tests.trainers.distributed_run OUT NAME...` in each process, OUT being a folder. A NAME is a method
and its weights, "dpo-lora" say, and what else is to be set, such as "checkpointing".
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import torch
from transformers import TrainerCallback

from tests.support import byte_level_tokenizer, pairs, questions, tiny_llama, training_arguments
from tests.trainers.runs import dpo, grpo, kto, lora, reward, rloo, sft

# Their own losses differ with the number of processes: KTO's through its estimate of the divergence, the others' since
# every process generates with a random state of its own.
ONLINE_OR_UNPAIRED = {"kto": kto, "grpo": grpo, "rloo": rloo}

HELD_OUT = questions(13, seed=4, choices=(4, 3))
ASKED = [*questions(20, choices=(4, 3)), *questions(7, seed=5, answered=False)]
SETTINGS = {
    "anchor_weight": 2.0, "em_weight": 1.0, "em_steps": 2, "max_steps": 4, "logging_steps": 1,
    "eval_calibration_dataset": HELD_OUT, "per_device_eval_batch_size": 2, "max_grad_norm": 0.0,
    "optim": "sgd", "learning_rate": 0.02, "lr_scheduler_type": "constant", "dataloader_drop_last": True,
}  # fmt: skip


class Interrupting(TrainerCallback):
    """Presses Ctrl-C in the second step."""

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        if state.global_step == 1:
            signal.raise_signal(signal.SIGINT)


def trainer_of(name, folder, processes, **options):
    """Return a trainer whose global batches are the same whatever the number of processes."""
    tokenizer = byte_level_tokenizer()
    settings = {
        **SETTINGS,
        "per_device_train_batch_size": 4 // processes,
        "calibration_batch_size": 6 // processes,
        "em_batch_size": 8 // processes,
        "gradient_accumulation_steps": 2,
        **options,
    }
    method, weights, *extra = name.split("-")
    if "checkpointing" in extra:
        settings |= {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}}
    if "reentrant" in extra:
        settings |= {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}}
    if "separate" in extra:
        settings |= {"separate_backward": True}
    if "interrupted" in extra:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # it is ignored in the background
    if "interrupted" in extra and os.environ.get("RANK") == "1":  # Ctrl-C is seen by one process alone
        settings["callbacks"] = [Interrupting()]
    if "texts" in extra:
        settings |= {"calibration_confidence": "text-tokens"}
    if "few" in extra:  # fewer questions a step than there are parts of gradient accumulation and processes
        settings |= {"calibration_batch_size": 2 // processes, "gradient_accumulation_steps": 4, "max_steps": 2}
    peft_config = lora() if weights == "lora" else None
    if method == "reward":
        own = {key: settings[key] for key in settings if not key.startswith(("anchor", "em_", "calibration", "eval_"))}
        own["dataloader_drop_last"] = False  # of the evaluation's last, uneven batch
        return reward(tokenizer, folder, peft_config=peft_config, eval_dataset=pairs(11, seed=3), **own)
    if method in ONLINE_OR_UNPAIRED:
        make = ONLINE_OR_UNPAIRED[method]
        return make(tokenizer, folder, calibration_dataset=ASKED, peft_config=peft_config, **settings)
    if method == "sft":
        if peft_config is None:
            settings["anchor_weight"] = 0.0
        return sft(tokenizer, folder, train_dataset=ASKED[:20], peft_config=peft_config, **settings)
    if peft_config is None:
        settings["ref_model"] = tiny_llama(tokenizer)
    return dpo(
        tokenizer, folder, train_dataset=pairs(64), calibration_dataset=ASKED, peft_config=peft_config, **settings
    )


def trace(name, folder):
    """Train and evaluate; return all that is to be compared."""
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    trainer = trainer_of(name, folder, processes)
    # transformers does not wrap a model for training that it has prepared for the evaluation of a dataset.
    first = trainer.evaluate() if trainer.eval_dataset is None else {}
    trainer.train()
    trainer.save_model(str(folder))
    wrapped = trainer.model_wrapped
    term = trainer._preference_term if name.startswith("reward") else trainer._calibration_term
    result = {
        "processes": trainer.accelerator.num_processes,
        "wrapper": type(wrapped).__name__,
        "logs": [entry for entry in trainer.state.log_history if "loss" in entry],
        "bins": term.targets.state_dict(),
        "first": {key: value for key, value in first.items() if "calibration" in key},
        "last": {key: value for key, value in trainer.evaluate().items() if "calibration" in key},
        **{stage: report.to_dict() for stage, report in getattr(trainer, "calibration_reports", {}).items()},
    }
    if hasattr(wrapped, "zero_optimization_stage"):
        result["stage"] = wrapped.zero_optimization_stage()
        parameters = list(trainer.model.parameters())
        result["sharded"] = all(parameter.numel() == 0 for parameter in parameters if hasattr(parameter, "ds_id"))
        result["partitioned"] = sum(hasattr(parameter, "ds_id") for parameter in parameters)
        # What this process holds of them, padding included, and what all together make.
        result["held"] = sum(parameter.ds_tensor.numel() for parameter in parameters if hasattr(parameter, "ds_id"))
        result["whole"] = sum(parameter.ds_numel for parameter in parameters if hasattr(parameter, "ds_id"))
        optimizer = wrapped.optimizer
        if hasattr(optimizer, "single_partition_of_fp32_groups"):  # stages 1 and 2 part the optimizer's state alone
            result["held"] = sum(part.numel() for part in optimizer.single_partition_of_fp32_groups)
            result["whole"] = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    return result


def main(out: str, *names: str) -> None:
    """Run each trainer, and write the traces of this process."""
    torch.set_num_threads(1)
    rank = os.environ.get("RANK", "0")
    results = {}
    for name in names:
        try:
            results[name] = trace(name, Path(out) / name)
        except (ValueError, KeyboardInterrupt) as error:
            results[name] = {"error": str(error)}
    (Path(out) / f"{rank}.json").write_text(json.dumps(results))


if __name__ == "__main__":
    assert "use_cpu" in training_arguments()
    main(*sys.argv[1:])
