"""A causal language model that answers multiple choice through a balanced option head (BalCAL)."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from ..calibrators.option_head import BalancedOptionHead
from ..confidence import Predictions, predict
from ..confidence.cached import exact_collator
from ..confidence.encoded import padding_token
from ..confidence.forward import answer_logits_and_states, output_layer
from ..tasks import PromptFormat, Question, as_questions, encode_questions, maximum_length, require_answers
from ..tasks.collator import QuestionBatch, QuestionCollator
from ..tasks.encoding import EncodedQuestion

HEAD_FILE, HEAD_SETTINGS = "option_head.safetensors", "option_head.json"


class OptionHeadModel(nn.Module):
    """A language model with an option head on the hidden state at the answer position.

    It can be passed to `transformers.Trainer` directly: its forward takes a `QuestionBatch`'s tensors and returns the
    loss.

    Parameters
    ----------
    model : PreTrainedModel or PeftModel
        Its weights that require a gradient are trained together with the head.
    tokenizer : PreTrainedTokenizerBase
    head : BalancedOptionHead
    prompt_format : PromptFormat, optional
        How questions are formatted; by default the plain prompt.
    """

    def __init__(
        self, model: Any, tokenizer: Any, head: BalancedOptionHead, prompt_format: PromptFormat | None = None
    ) -> None:
        super().__init__()
        self.model, self.head = model, head.to(next(model.parameters()).device)
        self.tokenizer, self.prompt_format = tokenizer, prompt_format or PromptFormat()

    def forward(self, **tensors: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the loss of a batch, ``{"loss": scalar}``; the arguments are the tensors of a `QuestionBatch`."""
        batch = QuestionBatch(**tensors)
        _, hidden = answer_logits_and_states(self.model, batch)
        return {"loss": self.head.loss(hidden, batch.answers, batch.option_mask)}

    def predict(self, questions: Any, *, batch_size: int = 16) -> Predictions:
        """Ask multiple-choice questions; the probabilities come from the head and cover the options only.

        Parameters
        ----------
        questions : anything that `hf_calib.tasks.as_questions` takes
            With at most as many options as the head has.
        batch_size : int, default 16
        """
        asked = self._asked(questions, batch_size)
        with torch.no_grad():
            values = self.head(*head_inputs(asked, self.head)).double().cpu().numpy()
        return replace(asked, option_log_probabilities=values, has_mass=False)

    def collator(self, items: Sequence[EncodedQuestion]) -> QuestionCollator:
        """Return the collator for these questions."""
        plain = QuestionCollator(padding_token(self.tokenizer))
        return exact_collator([self.model], items, plain, next(self.model.parameters()).device)

    def rebalance(self, questions: Any, batch_size: int = 64) -> None:
        """Balance the head on answered questions that the weights are not trained on."""
        asked = self._asked(questions, batch_size)
        self.head.rebalance(*head_inputs(asked, self.head), torch.from_numpy(asked.answers))

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write the head into the folder of the model or adapter that `save_pretrained` wrote; return the folder."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.head.state_dict().items()}
        save_file(tensors, folder / HEAD_FILE)
        settings = {
            "hidden_size": self.head.hidden_size,
            "n_options": self.head.n_options,
            "prompt_format": self.prompt_format.to_dict(),
        }
        (folder / HEAD_SETTINGS).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        return folder

    @classmethod
    def load(cls, folder: str | os.PathLike[str], model: Any, tokenizer: Any) -> OptionHeadModel:
        """Return a model with a head that `save` wrote.

        Raises
        ------
        FileNotFoundError
            If the folder has no head.
        ValueError
            If the file is not a head, or its hidden size differs from the model's.
        """
        folder = Path(folder)
        if not (folder / HEAD_SETTINGS).is_file() or not (folder / HEAD_FILE).is_file():
            raise FileNotFoundError(f"there is no option head in {str(folder)!r}")
        settings = json.loads((folder / HEAD_SETTINGS).read_text(encoding="utf-8"))
        if not isinstance(settings, dict) or set(settings) != {"hidden_size", "n_options", "prompt_format"}:
            raise ValueError(f"{HEAD_SETTINGS} must hold hidden_size, n_options and prompt_format")
        size = output_layer(model).weight.shape[1]
        if settings["hidden_size"] != size:
            raise ValueError(f"the head takes hidden states of {settings['hidden_size']!r}, the model's have {size}")
        if not isinstance(settings["n_options"], int) or not 2 <= settings["n_options"] <= 26:
            raise ValueError(f"n_options in {HEAD_SETTINGS} must be from 2 to 26, got {settings['n_options']!r:.50}")
        head = BalancedOptionHead(size, settings["n_options"])
        try:
            head.load_state_dict(load_file(folder / HEAD_FILE))
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"{HEAD_FILE} does not hold the head's tensors: {error}") from None
        return cls(model, tokenizer, head, PromptFormat.from_dict(settings["prompt_format"]))

    def _asked(self, questions: Any, batch_size: int) -> Predictions:
        options: dict[str, Any] = {"prompt_format": self.prompt_format, "batch_size": batch_size}
        return predict(self.model, self.tokenizer, questions, hidden_states=True, **options)


def head_inputs(asked: Predictions, head: BalancedOptionHead) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the hidden states (n, d) and the mask of existing options (n, K) that a head takes."""
    device = head.scale.device
    exists = np.arange(asked.option_log_probabilities.shape[1]) < asked.n_choices[:, None]
    return torch.from_numpy(asked.hidden_states).to(device), torch.from_numpy(exists).to(device)


class BalanceCallback(TrainerCallback):
    """Balances an option head at intervals and at the end.

    Parameters
    ----------
    questions : sequence of Question
        Answered questions that the weights are not trained on.
    steps : int, default 10
    """

    def __init__(self, questions: Sequence[Question], steps: int = 10) -> None:
        if steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}")
        self.questions, self.steps = questions, steps

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Balance the head if it is due."""
        if state.global_step % self.steps == 0:
            model.rebalance(self.questions, args.per_device_eval_batch_size)

    def on_train_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Balance the head for the final weights."""
        model.rebalance(self.questions, args.per_device_eval_batch_size)


def train_option_head(
    model: Any,
    tokenizer: Any,
    questions: Any,
    held_out: Any,
    *,
    args: TrainingArguments | None = None,
    prompt_format: PromptFormat | None = None,
    scale: float = 4.0,
    balance_steps: int = 10,
) -> OptionHeadModel:
    """Train a balanced option head, together with the trainable weights of the language model.

    Parameters
    ----------
    model : PreTrainedModel or PeftModel
        Freeze its weights to train only the head.
    tokenizer : PreTrainedTokenizerBase
    questions : anything that `hf_calib.tasks.as_questions` takes
        Answered questions to train on.
    held_out : the same
        Answered questions to balance on.
    args : transformers.TrainingArguments, optional
        By default three epochs at a learning rate of 1e-3, without checkpoints; the output folder is "option-head".
    prompt_format : PromptFormat, optional
    scale : float, default 4.0
        Initial scale of the simplex classifier.
    balance_steps : int, default 10
        Optimizer steps between two balancings.

    Returns
    -------
    OptionHeadModel
        Ask it with `predict`; save it with `save`, in addition to the model's own `save_pretrained`.

    Raises
    ------
    QuestionError
        If a question has no answer or cannot be read.
    """
    asked, aside = as_questions(questions), as_questions(held_out)
    require_answers(asked, "training an option head")
    require_answers(aside, "balancing an option head")
    layer = output_layer(model)
    n_options = max(len(question.choices) for question in [*asked, *aside])
    torch_state = torch.random.get_rng_state()
    args = args or TrainingArguments("option-head", num_train_epochs=3, learning_rate=1e-3, save_strategy="no")
    torch.manual_seed(args.seed)
    head = BalancedOptionHead(layer.weight.shape[1], n_options, scale=scale)
    torch.random.set_rng_state(torch_state)
    whole = OptionHeadModel(model, tokenizer, head, prompt_format)
    limit = maximum_length(model.config, tokenizer)
    items = encode_questions(asked, tokenizer, whole.prompt_format, max_length=limit).items
    _start_from_letters(head, layer, items)
    args.remove_unused_columns = False
    collator = whole.collator(items)
    trainer = Trainer(
        model=whole,
        args=args,
        train_dataset=list(items),  # type: ignore[arg-type]  # Trainer takes any sequence
        data_collator=lambda rows: vars(collator(rows)),
        callbacks=[BalanceCallback(aside, balance_steps)],
    )
    trainer.train()
    return whole


@torch.no_grad()
def _start_from_letters(head: BalancedOptionHead, layer: Any, items: Sequence[EncodedQuestion]) -> None:
    """Initialize the learned classifier with the language model's output rows of the options' letters."""
    widest = max(items, key=lambda item: len(item.option_ids))
    if not all(tuple(item.option_ids) == tuple(widest.option_ids)[: len(item.option_ids)] for item in items):
        return  # if the letters' tokens differ between questions, there are no such rows
    rows = torch.tensor(widest.option_ids, device=layer.weight.device)
    head.learned.weight[: len(rows)] = layer.weight[rows].to(head.learned.weight)
    head.learned.bias.zero_()
    if getattr(layer, "bias", None) is not None:
        head.learned.bias[: len(rows)] = layer.bias[rows].to(head.learned.bias)
