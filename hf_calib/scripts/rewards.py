"""Rewards and prompts for the scripts of trainers that generate their own answers."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

from ..rewards import get_answer_reward, get_brier_reward, get_confidence_format_reward, get_log_score_reward
from .data import DatasetError


def reward_functions(script_args: Any) -> list[str | Callable]:
    """Find a script's rewards.

    Parameters
    ----------
    script_args : RewardedScriptArguments

    Raises
    ------
    ValueError
        If none is given, or a name does not refer to a function.
    """
    names = script_args.reward_funcs or ()
    own = _own_rewards(names, getattr(script_args, "reward_matcher", None) or "exact")
    rewards: list[str | Callable] = [own[name] if name in own else _reward(name) for name in names]
    if script_args.reward_model_name_or_path:
        rewards.insert(0, script_args.reward_model_name_or_path)
    if not rewards:
        raise ValueError(
            "no reward; give --reward_funcs, such as accuracy_reward or package.module.function, or "
            "--reward_model_name_or_path"
        )
    return rewards


def _own_rewards(names: Sequence[str], matcher: str) -> dict[str, Callable]:
    """Return the rewards of `hf_calib.rewards` by name; scores use a correctness reward if one is named too."""
    correctness = next((_reward(name) for name in names if name in _CORRECTNESS), None)
    scored: dict[str, Any] = {"matcher": matcher, "correctness_reward": correctness}
    return {
        "answer_reward": get_answer_reward(matcher),
        "brier_reward": get_brier_reward(**scored),
        "log_score_reward": get_log_score_reward(**scored),
        "confidence_format_reward": get_confidence_format_reward(),
    }


# TRL's rewards that say whether an answer is right.
_CORRECTNESS = ("accuracy_reward", "reasoning_accuracy_reward")


def _reward(name: str) -> Callable:
    rewards = importlib.import_module("trl.rewards")
    # Of the other public names some are modules, and some make a reward from arguments.
    known = [reward for reward in rewards.__all__ if reward.endswith("_reward") and not reward.startswith("get_")]
    if name in known:
        return getattr(rewards, name)
    module_name, _, function = name.rpartition(".")
    if not module_name:
        own = ", ".join(_own_rewards((), "exact"))
        raise ValueError(
            f"reward_funcs: unknown reward {name!r}; choose from hf_calib.rewards ({own}) or trl.rewards "
            f"({', '.join(known)}), or give package.module.function"
        )
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ValueError(f"the reward {name!r}: the module {module_name!r} cannot be imported: {error}") from error
    if not callable(getattr(module, function, None)):
        raise ValueError(f"the module {module_name!r} has no function {function!r} to take as a reward")
    return getattr(module, function)


def tokenized_prompts(dataset: Any, tokenizer: Any) -> Any:
    """Return a dataset of the prompts' `input_ids`; messages go through the chat template.

    Raises
    ------
    DatasetError
        If there is no prompt, or one is empty.
    """
    if len(dataset) == 0:
        raise DatasetError("the dataset holds no prompt; give one with at least one row")

    def tokenize(row: dict[str, Any]) -> dict[str, Any]:
        prompt = row["prompt"]
        if not isinstance(prompt, str):
            prompt = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
        return {"input_ids": tokenizer(prompt)["input_ids"]}

    tokenized = dataset.map(tokenize, remove_columns=dataset.column_names)
    empty = [row for row, ids in enumerate(tokenized["input_ids"]) if not ids]
    if empty:
        raise DatasetError(f"row {empty[0]}, counted from 0: the prompt is empty; complete or remove the row")
    return tokenized
