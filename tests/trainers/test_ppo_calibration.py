"""A whole PPO run on small models: what it does to calibration, and what is left of that with the terms.

Nouns have colors with known probabilities. The policy is pre-trained on answers drawn from them, and on open replies;
the reward model is a network too, taught the logarithm of an answer's probability and that politeness is worth more.
"""

import copy
import gc

import numpy as np
import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaForSequenceClassification, PreTrainedTokenizerFast, set_seed

from hf_calib import predict
from hf_calib.tasks import PromptFormat, Question
from hf_calib.trainers import CalibrationAwarePPOConfig, CalibrationAwarePPOTrainer
from hf_calib.trainers.trl_compatibility import has_ppo, ppo_classes
from tests.support import COLOURS, NOUNS, tiny_llama, training_arguments

pytestmark = pytest.mark.skipif(not has_ppo(), reason="the installed TRL has no PPO")

CHOICES = COLOURS[:4]
REPLIES = ("Sure", "No")
POLITE = 2.0


def word_tokenizer():
    """Return a tokenizer with a token for each word, so that an answer and an open reply are one token each."""
    prompts = [asked(0), open_prompt(0)]
    words = {word for prompt in prompts for word in prompt.split()} | {*NOUNS, *"ABCD", *REPLIES}
    words = ["<pad>", "<eos>", *sorted(words)]
    backend = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>", padding_side="left")


def question(noun, answer=None):
    return Question(f"What color is the {NOUNS[noun]} ?", CHOICES, answer)


def asked(noun):
    return PromptFormat().render(question(noun))


def open_prompt(noun):
    return f"Tell me about the {NOUNS[noun]} !"


@pytest.fixture(scope="module")
def world():
    """Return the tokenizer, p* of each noun's colors, and the pre-trained policy and reward model."""
    tokenizer = word_tokenizer()
    rng = np.random.default_rng(0)
    truth = np.stack([rng.permutation([0.55, 0.25, 0.15, 0.05]) for _ in NOUNS])
    kinds = [
        (torch.tensor(tokenizer([asked(noun) for noun in range(len(NOUNS))])["input_ids"]),
         torch.tensor(tokenizer(list("ABCD"))["input_ids"])[:, 0], torch.tensor(truth),
         torch.tensor(truth).log()),
        (torch.tensor(tokenizer([open_prompt(noun) for noun in range(len(NOUNS))])["input_ids"]),
         torch.tensor(tokenizer(list(REPLIES))["input_ids"])[:, 0], torch.full((len(NOUNS), 2), 0.5),
         torch.tensor([POLITE, 0.0]).expand(len(NOUNS), 2)),
    ]  # fmt: skip
    policy = tiny_llama(tokenizer)
    torch.manual_seed(2)
    config = copy.deepcopy(policy.config)
    config.num_labels = 1
    reward_model = LlamaForSequenceClassification(config)
    for model in (policy, reward_model):
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        for step in range(400):
            prompts, replies, probabilities, rewards = kinds[step % 2]
            if model is policy:
                # Of all answers at once, as often as they are given.
                told = model(prompts).logits[:, -1].log_softmax(dim=-1)[:, replies]
                loss = -(probabilities * told).sum(dim=-1).mean()
            else:
                every = prompts.repeat_interleave(len(replies), 0), replies.repeat(len(prompts))[:, None]
                texts = torch.cat(every, dim=1)
                loss = (model(texts).logits[:, 0] - rewards.flatten()).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return tokenizer, truth, policy.eval(), reward_model.eval()


def drawn(truth, n, seed):
    """Return answered questions, their answers drawn from p*."""
    rng = np.random.default_rng(seed)
    nouns = np.arange(n) % len(NOUNS)
    return [question(noun, int(rng.choice(4, p=truth[noun]))) for noun in nouns]


def reward_of_open_replies(model, reward_model, tokenizer):
    """Return the mean reward of a policy's open replies, over all that it may say."""
    total = []
    for noun in range(len(NOUNS)):
        prompt = torch.tensor(tokenizer([open_prompt(noun)])["input_ids"])
        with torch.no_grad():
            probabilities = model(prompt).logits[0, -1].softmax(dim=-1)
            every = torch.arange(len(tokenizer))[:, None]
            scores = reward_model(torch.cat([prompt.expand(len(every), -1), every], dim=1)).logits[:, 0]
        total.append(float(probabilities @ scores))
    return float(np.mean(total))


def reinforced(world, folder, *, aware):
    """Return the policy that PPO leaves."""
    tokenizer, _, policy, reward_model = world
    plain_trainer, plain_config = ppo_classes()
    of_config = {"anchor_weight": 5.0, "calibration_batch_size": 10} if aware else {}
    of_trainer = {"calibration_dataset": [question(noun) for noun in range(len(NOUNS))]} if aware else {}
    settings = training_arguments(
        **of_config, response_length=1, num_sample_generations=0, total_episodes=25 * 64, num_ppo_epochs=1,
        num_mini_batches=1, per_device_train_batch_size=64, local_rollout_forward_batch_size=64, learning_rate=3e-3,
        kl_coef=0.02, temperature=1.0,
    )  # fmt: skip
    del settings["max_steps"]
    prompts = [prompt for noun in range(len(NOUNS)) for prompt in (asked(noun), open_prompt(noun))] * 8
    rows = Dataset.from_dict({"input_ids": tokenizer(prompts)["input_ids"]})
    set_seed(1)
    value_model = LlamaForSequenceClassification(reward_model.config)
    trainer = (CalibrationAwarePPOTrainer if aware else plain_trainer)(
        args=(CalibrationAwarePPOConfig if aware else plain_config)(str(folder), **settings),
        processing_class=tokenizer, model=copy.deepcopy(policy), ref_model=copy.deepcopy(policy),
        reward_model=reward_model, value_model=value_model, train_dataset=rows, eval_dataset=rows, **of_trainer,
    )  # fmt: skip
    # TRL collects garbage twice a step, which is slow with all that a session of tests keeps.
    gc.freeze()
    try:
        trainer.train()
    finally:
        gc.unfreeze()
    return trainer.policy_model.eval()


def test_plain_ppo_makes_overconfident_and_with_the_anchor_it_does_not_at_the_same_reward(world, tmp_path):
    tokenizer, truth, policy, reward_model = world
    test_set = drawn(truth, 2000, seed=5)
    found = {}
    for name in ("before", "plain", "aware"):
        model = policy if name == "before" else reinforced(world, tmp_path / name, aware=name == "aware")
        report = predict(model, tokenizer, test_set, batch_size=512).report()
        found[name] = (
            report.measures["ece"].value, report.measures["confidence"].value,
            reward_of_open_replies(model, reward_model, tokenizer),
        )  # fmt: skip
    (before, _, reward_before), (plain, _, reward_plain), (aware, _, reward_aware) = found.values()
    assert plain > before + 0.2
    assert aware < plain / 3
    assert reward_plain > reward_before + 0.5
    assert reward_aware > reward_plain - 0.1
