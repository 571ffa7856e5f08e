"""What the distributed tests run in each process: several trainers, whose traces go into a JSON file.

Run as `python -m tests.trainers.distributed_run OUT NAME...` in each process, OUT being a folder. A NAME is a method
and its weights, "dpo-lora" say, and what else is to be set, by `EXTRAS`.
"""

from __future__ import annotations

import copy
import gc
import json
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
from datasets import Dataset
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
    "gradient_accumulation_steps": 2,
}  # fmt: skip

EXTRAS = {
    "checkpointing": {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}},
    "reentrant": {
        "gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True},
        # With an adapter transformers turns it on, and training fails with the terms and without.
        "ddp_find_unused_parameters": False,
    },
    "recomputed": {"gradient_checkpointing": True},  # the way is left to the libraries
    "separate": {"separate_backward": True},
    # Of a gradient whose norm is larger; with plain SGD a norm that missed a part of it would show in the weights.
    "clipped": {"max_grad_norm": 0.25},
    "once": {"gradient_accumulation_steps": 1},
    "four": {"gradient_accumulation_steps": 4},
    "bf16": {"bf16": True},
    "texts": {"calibration_confidence": "text-tokens"},
    "resumed": {"save_strategy": "steps", "save_steps": 2},
    "interrupted": {},
    "few": {},
}  # fmt: skip
RECOMPUTING = ("checkpointing", "reentrant", "recomputed")


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
        **options,
    }
    method, weights, *extra = name.split("-")
    for one in extra:
        settings |= copy.deepcopy(EXTRAS[one])  # TRL writes into the nested ones
    if "interrupted" in extra:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # it is ignored in the background
    if "interrupted" in extra and os.environ.get("RANK") == "1":  # Ctrl-C is seen by one process alone
        settings["callbacks"] = [Interrupting()]
    if "few" in extra:  # fewer questions a step than there are parts of gradient accumulation and processes
        settings |= {"calibration_batch_size": 2 // processes, "gradient_accumulation_steps": 4, "max_steps": 2}
    peft_config = lora() if weights == "lora" else None
    if method == "reward":
        own = {key: settings[key] for key in settings if not key.startswith(("anchor", "em_", "calibration", "eval_"))}
        own["dataloader_drop_last"] = False  # of the evaluation's last, uneven batch
        return reward(tokenizer, folder, peft_config=peft_config, eval_dataset=pairs(11, seed=3), **own)
    if method in ONLINE_OR_UNPAIRED:
        make = ONLINE_OR_UNPAIRED[method]
        if peft_config is None:
            settings["calibration_reference_model"] = tiny_llama(tokenizer)
            # TRL would load its own reference by the model's name.
            settings |= {"ref_model": tiny_llama(tokenizer)} if method == "kto" else {"beta": 0.0}
        return make(tokenizer, folder, calibration_dataset=ASKED, peft_config=peft_config, **settings)
    if method == "text":
        texts = Dataset.from_list([{"text": row["prompt"] + row["chosen"]} for row in pairs(64)])
        if peft_config is None:
            settings["calibration_reference_model"] = tiny_llama(tokenizer)
        return sft(
            tokenizer, folder, train_dataset=texts, calibration_dataset=ASKED, peft_config=peft_config, **settings
        )
    if method == "sft":
        if peft_config is None:
            settings["anchor_weight"] = 0.0
        return sft(tokenizer, folder, train_dataset=ASKED[:20], peft_config=peft_config, **settings)
    if peft_config is None:
        settings["ref_model"] = tiny_llama(tokenizer)
    settings["preference_calibration"] = True
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
    if "resumed" in name.split("-"):  # from the middle, by a trainer that has done nothing else
        trainer = trainer_of(name, folder, processes)
        trainer.train(resume_from_checkpoint=str(Path(folder) / "checkpoint-2"))
    trainer.save_model(str(folder))
    wrapped = trainer.model_wrapped
    term = trainer._preference_term if name.startswith("reward") else trainer._calibration_term
    result = {
        "processes": trainer.accelerator.num_processes,
        "wrapper": type(wrapped).__name__,
        "reentrant": [
            module._gradient_checkpointing_func.keywords["use_reentrant"]
            for module in trainer.model.modules()
            if getattr(module, "gradient_checkpointing", False)
        ],
        "logs": [entry for entry in trainer.state.log_history if "loss" in entry],
        "bins": term.targets.state_dict(),
        "first": {key: value for key, value in first.items() if "calibration" in key},
        "last": {key: value for key, value in trainer.evaluate().items() if "calibration" in key},
        **{stage: report.to_dict() for stage, report in getattr(trainer, "calibration_reports", {}).items()},
    }
    if hasattr(wrapped, "zero_optimization_stage"):
        result["stage"] = wrapped.zero_optimization_stage()
        parameters = list(trainer.model.parameters())
        result["unsharded"] = [
            name
            for name, parameter in trainer.model.named_parameters()
            if hasattr(parameter, "ds_id") and parameter.numel()
        ]
        result["partitioned"] = sum(hasattr(parameter, "ds_id") for parameter in parameters)
        # What this process holds of them, padding included, and what all together make.
        result["held"] = sum(parameter.ds_tensor.numel() for parameter in parameters if hasattr(parameter, "ds_id"))
        result["whole"] = sum(parameter.ds_numel for parameter in parameters if hasattr(parameter, "ds_id"))
        optimizer = wrapped.optimizer
        if hasattr(optimizer, "single_partition_of_fp32_groups"):  # stages 1 and 2 part the optimizer's state alone
            result["held"] = sum(part.numel() for part in optimizer.single_partition_of_fp32_groups)
            result["whole"] = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    return result


def sharded_gradients(name):
    """Return how far the gradients of weights that FSDP2 shards are from those of whole ones.

    accelerate has no FSDP2 on processors, so that no trainer can be run there; the terms' own backward can.
    """
    from accelerate.utils import DistributedType
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    from hf_calib.trainers.distributed import separate_backward

    rank, processes = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    whole, model = (tiny_llama(byte_level_tokenizer()) for _ in range(2))
    torch.manual_seed(0)
    rows = torch.randint(5, 200, (2, 2, processes, 7))  # the parts of a step, terms and the trainer's own, processes

    def loss(of, ids):
        return of(input_ids=ids, labels=ids).loss

    for part in rows:
        for ids in part.flatten(0, 1):
            (loss(whole, ids[None]) / processes).backward()
    mesh = init_device_mesh("cpu", (processes,))
    model.gradient_checkpointing_enable(EXTRAS[name.split("-")[-1]]["gradient_checkpointing_kwargs"])
    model.enable_input_require_grads()
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    model.train()
    accelerator = SimpleNamespace(distributed_type=DistributedType.FSDP, backward=torch.Tensor.backward)
    for number, (term, own) in enumerate(rows):
        model.set_requires_gradient_sync(number == len(rows) - 1)  # as transformers does for accumulation
        separate_backward(accelerator, model, lambda ids=term[rank : rank + 1]: loss(model, ids))
        loss(model, own[rank : rank + 1]).backward()
    expected = {key: weight.grad for key, weight in whole.named_parameters()}
    found = {key: weight.grad.full_tensor() for key, weight in model.named_parameters()}
    return {
        "apart": max(float((found[key] - expected[key]).abs().max()) for key in expected),
        "largest": max(float(gradient.abs().max()) for gradient in expected.values()),
        "held": sum(weight.to_local().numel() for weight in model.parameters()),
        "whole": sum(weight.numel() for weight in whole.parameters()),
    }


def main(out: str, *names: str) -> None:
    """Run each trainer, and write the traces of this process."""
    torch.set_num_threads(1)
    rank = os.environ.get("RANK", "0")
    results = {}
    for name in names:
        try:
            results[name] = sharded_gradients(name) if name.startswith("fsdp2") else trace(name, Path(out) / name)
        except (ValueError, KeyboardInterrupt) as error:
            results[name] = {"error": str(error)}
        (Path(out) / f"{rank}.json").write_text(json.dumps(results))


if __name__ == "__main__":
    assert "use_cpu" in training_arguments()
    gc.freeze()  # as in conftest.py
    main(*sys.argv[1:])
