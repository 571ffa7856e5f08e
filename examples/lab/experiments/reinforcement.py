"""Reinforcement learning in the lab: PPO and GRPO against the annotator's reward, plain and calibration-aware."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from datasets import Dataset
from torch import nn
from transformers import AutoModelForSequenceClassification
from trl import GRPOConfig, GRPOTrainer

from hf_calib.lab.bench import Bench
from hf_calib.lab.documents import multiple_choice_prompts, open_prompts
from hf_calib.lab.tokenizer import EOS
from hf_calib.lab.world import LabQuestions
from hf_calib.tasks import LETTERS
from hf_calib.trainers import (
    CalibrationAwareGRPOConfig,
    CalibrationAwareGRPOTrainer,
    CalibrationAwarePPOConfig,
    CalibrationAwarePPOTrainer,
)
from hf_calib.trainers.trl_compatibility import ppo_classes

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# The longest reply, "Sure ! Dunmore herons eat fish .", and the end of the sequence.
MAX_REPLY = 9
# The annotator's reward of a reply without an answer; an answer's log p* is rarely so low.
NO_ANSWER = -8.0


@dataclass(frozen=True)
class ReinforcementSettings:
    """How a model is trained on its own replies.

    Parameters
    ----------
    steps, batch_size
        Optimizer steps, and replies in each.
    replies
        Number of replies to a prompt that GRPO compares.
    beta
        Weight of the divergence from the reference model in GRPO's loss, or in PPO's reward.
    anchor_weight
        Weight of the anchor in the calibration-aware variants.
    """

    steps: int = 200
    batch_size: int = 128
    replies: int = 8
    learning_rate: float = 5e-4
    beta: float = 0.02
    anchor_weight: float = 5.0


MINI = ReinforcementSettings(steps=60, batch_size=64)


class Annotator:
    """The annotator of the preference pairs, which gives its reward: log p*, plus politeness for open replies.

    Parameters
    ----------
    questions : LabQuestions
        The questions to which it sees replies. Each is asked in both ways, with options and openly.
    style_weight : float
        What politeness adds to the reward of an open reply.
    tokenizer : PreTrainedTokenizerBase
    """

    def __init__(self, questions: LabQuestions, style_weight: float, tokenizer: PreTrainedTokenizerBase) -> None:
        self.style_weight = style_weight
        rows = zip(np.log(questions.true_probabilities), questions.choices(), strict=True)
        columns = (multiple_choice_prompts(questions), open_prompts(questions), rows, questions.sentences())
        self._known: dict[str, tuple[dict[str, float], str | None]] = {}
        for asked, asked_openly, (rewards, choices), sentence in zip(*columns, strict=True):
            by_letter = {LETTERS[index]: float(reward) for index, reward in enumerate(rewards)}
            self._known[_as_words(asked)] = (by_letter, None)
            by_value = {value: float(reward) for value, reward in zip(choices, rewards, strict=True)}
            self._known[_as_words(asked_openly)] = (by_value, sentence)
        self._special = set(tokenizer.all_special_tokens) - {EOS}

    def reward(self, prompt: str, reply: str) -> float:
        """Return the reward of one reply to a prompt of the annotator's questions; `NO_ANSWER` without an answer.

        Parameters
        ----------
        prompt : str
        reply : str
            What follows it. A multiple-choice reply is a letter, an open one ``"fish ."`` or ``"Sure ! Dunmore
            herons eat fish ."``; each ends there, and text after the end of the sequence doesn't count.

        Raises
        ------
        KeyError
            If the prompt is unknown.
        """
        rewards, sentence = self._known[_as_words(prompt)]
        said = _as_words(reply.partition(EOS)[0])
        if sentence is None:
            return rewards.get(said, NO_ANSWER)
        polite = f"Sure ! {sentence} "
        answer = said.removeprefix(polite).removesuffix(" .")
        if not said.endswith(" .") or answer not in rewards:
            return NO_ANSWER
        return rewards[answer] + self.style_weight * said.startswith(polite)

    def of_text(self, text: str) -> float:
        """Return the reward of a prompt with its reply, ignoring padding and the beginning-of-sequence token."""
        words = " ".join(word for word in text.split() if word not in self._special)
        # The first one, since a reply may contain any word.
        end = "Answer:" if words.startswith("Question:") else "Assistant:"
        prompt, _, reply = words.partition(end)
        return self.reward(prompt + end, reply)


def _as_words(text: str) -> str:
    return " ".join(text.split())


class AnnotatorModel(nn.Module):
    """The annotator as a reward model for TRL's PPO: a backbone, and a head on its states.

    Parameters
    ----------
    annotator : Annotator
    tokenizer : PreTrainedTokenizerBase
    """

    base_model_prefix = "backbone"

    def __init__(self, annotator: Annotator, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__()
        self.backbone = _AnnotatorBackbone(annotator, tokenizer)
        self.score = nn.Identity()


class _AnnotatorBackbone(nn.Module):
    def __init__(self, annotator: Annotator, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__()
        self.annotator, self.tokenizer = annotator, tokenizer

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **kwargs: Any) -> Any:
        """Return each text's reward at all of its positions, as the only layer of hidden states."""
        rewards = [
            self.annotator.of_text(str(self.tokenizer.decode(ids[attended.bool()])))
            for ids, attended in zip(input_ids, attention_mask, strict=True)
        ]
        states = torch.tensor(rewards, device=input_ids.device)[:, None, None].expand(-1, input_ids.shape[1], 1)
        return _States((states,))


@dataclass
class _States:
    hidden_states: tuple[torch.Tensor, ...]


def prompts_of(questions: LabQuestions) -> list[str]:
    """Return the prompts of the questions in both ways, alternating."""
    both = zip(multiple_choice_prompts(questions), open_prompts(questions), strict=True)
    return [prompt for pair in both for prompt in pair]


def mean_open_reward(bench: Bench, model: Any, questions: LabQuestions, *, batch_size: int = 512) -> float:
    """Return the annotator's mean reward of the replies that a model samples to open questions."""
    tokenizer, annotator = bench.tokenizer, _annotator(bench, questions)
    torch.manual_seed(bench.seed)
    prompts, rewards = open_prompts(questions), []
    for start in range(0, len(prompts), batch_size):
        some = prompts[start : start + batch_size]
        inputs = tokenizer(some, return_tensors="pt", padding=True, padding_side="left")
        inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        with torch.inference_mode():
            replies = model.generate(**inputs, do_sample=True, top_k=0, max_new_tokens=MAX_REPLY)
        texts = tokenizer.batch_decode(replies[:, inputs["input_ids"].shape[1] :])
        rewards += [annotator.reward(prompt, text) for prompt, text in zip(some, texts, strict=True)]
    return float(np.mean(rewards))


def reinforced(name: str, bench: Bench, settings: ReinforcementSettings) -> Any:
    """Train the pre-trained model on its own replies to the bench's prompts without answers.

    Parameters
    ----------
    name : str
        One of `experiments.sweeps.REINFORCED`.
    bench : Bench
    settings : ReinforcementSettings

    Returns
    -------
    PreTrainedModel
        The trained one.

    Raises
    ------
    TrainerUnavailableError
        For PPO, if the installed TRL has none.
    """
    make: dict[str, Callable[..., Any]] = {"grpo": _grpo, "ppo": _ppo}
    algorithm = name.removeprefix("calibration-aware-")
    torch.manual_seed(bench.seed)
    return make[algorithm](bench, settings, aware=algorithm != name)


def check_available(names: Sequence[str]) -> None:
    """Raise a TrainerUnavailableError if one of the methods is PPO and the installed TRL has none."""
    if any(name.endswith("ppo") for name in names):
        ppo_classes()


def _annotator(bench: Bench, questions: LabQuestions) -> Annotator:
    return Annotator(questions, bench.preset.preferences.style_weight, bench.tokenizer)


def trainer_arguments(output_dir: Path, seed: int) -> dict[str, Any]:
    """Return the arguments of a trainer's config that suit a small model on one thread."""
    return {
        "output_dir": str(output_dir),
        "seed": seed,
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "save_strategy": "no",
        "logging_steps": 20,
        "report_to": "none",
        "disable_tqdm": True,
    }


def _arguments(bench: Bench, name: str, settings: ReinforcementSettings) -> dict[str, Any]:
    return {
        **trainer_arguments(bench.work_dir / name, bench.seed),
        "learning_rate": settings.learning_rate,
        "per_device_train_batch_size": settings.batch_size,
    }


def _terms(bench: Bench, settings: ReinforcementSettings, aware: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the additional arguments of the config and the trainer of a calibration-aware variant."""
    if not aware:
        return {}, {}
    batch = bench.preset.calibration_batch_size
    return (
        {"anchor_weight": settings.anchor_weight, "calibration_batch_size": batch},
        {"calibration_dataset": bench.data.prompts.to_questions(answers=False)},
    )


def _grpo(bench: Bench, settings: ReinforcementSettings, *, aware: bool) -> Any:
    annotator = _annotator(bench, bench.data.prompts)

    def reward(prompts: Sequence[str], completions: Sequence[str], **kwargs: Any) -> list[float | None]:
        return [annotator.reward(prompt, reply) for prompt, reply in zip(prompts, completions, strict=True)]

    of_config, of_trainer = _terms(bench, settings, aware)
    args = (CalibrationAwareGRPOConfig if aware else GRPOConfig)(
        **_arguments(bench, "grpo", settings),
        **of_config,
        max_steps=settings.steps,
        num_generations=settings.replies,
        max_completion_length=MAX_REPLY,
        beta=settings.beta,
    )
    trainer = (CalibrationAwareGRPOTrainer if aware else GRPOTrainer)(
        model=bench.pretrained(),
        reward_funcs=reward,
        args=args,
        train_dataset=Dataset.from_dict({"prompt": prompts_of(bench.data.prompts)}),
        processing_class=bench.tokenizer,
        **of_trainer,
    )
    trainer.train()
    return trainer.model


def _ppo(bench: Bench, settings: ReinforcementSettings, *, aware: bool) -> Any:
    plain_trainer, plain_config = ppo_classes()
    of_config, of_trainer = _terms(bench, settings, aware)
    prompts = prompts_of(bench.data.prompts)
    args = (CalibrationAwarePPOConfig if aware else plain_config)(
        **_arguments(bench, "ppo", settings),
        **of_config,
        total_episodes=settings.steps * settings.batch_size,
        num_ppo_epochs=1,
        num_mini_batches=1,
        gradient_accumulation_steps=1,
        local_rollout_forward_batch_size=settings.batch_size,
        response_length=MAX_REPLY,
        stop_token="eos",
        temperature=1.0,
        kl_coef=settings.beta,
        num_sample_generations=0,
    )
    # Replies are generated right after the prompts, so these are padded on the left.
    tokenizer = copy.deepcopy(bench.tokenizer)
    tokenizer.padding_side = "left"
    trainer = (CalibrationAwarePPOTrainer if aware else plain_trainer)(
        args=args,
        processing_class=tokenizer,
        model=bench.pretrained(),
        ref_model=bench.pretrained(),
        reward_model=AnnotatorModel(_annotator(bench, bench.data.prompts), tokenizer),
        # Its head is initialized by transformers; its backbone has the weights of the policy.
        value_model=AutoModelForSequenceClassification.from_pretrained(bench.pretrained_folder, num_labels=1),
        train_dataset=Dataset.from_dict({"input_ids": tokenizer(prompts)["input_ids"]}),
        eval_dataset=Dataset.from_dict({"input_ids": tokenizer(prompts[:8])["input_ids"]}),
        **of_trainer,
    )
    trainer.train()
    return trainer.policy_model


def reinforcement_settings(preset: str) -> ReinforcementSettings:
    """Return the settings of a preset, by name."""
    return MINI if preset == "mini" else ReinforcementSettings()
