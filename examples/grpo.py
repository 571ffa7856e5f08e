"""
Align a model with GRPO and keep it calibrated: TRL's `grpo.py` with calibration questions.

```bash
python examples/grpo.py \
    --model_name_or_path Qwen/Qwen2-0.5B-Instruct \
    --dataset_name trl-lib/DeepMath-103K \
    --reward_funcs accuracy_reward \
    --calibration_dataset allenai/openbookqa:main:train \
    --eval_calibration_dataset allenai/openbookqa:main:test \
    --calibration_prompt chat \
    --supervised_weight 0 \
    --learning_rate 1.0e-5 \
    --output_dir Qwen2-0.5B-GRPO-calibrated \
    --use_peft
```

`--reward_funcs` takes names of rewards of `hf_calib.rewards` or TRL, and `package.module.function`;
`--reward_model_name_or_path` takes a reward model.

With rewards for stated confidence, on a file of free-form questions with the columns `question` and `answers`:

```bash
python examples/grpo.py --config examples/grpo_stated_confidence.yaml \
    --dataset_name train.jsonl --eval_calibration_dataset test.jsonl
```

Questions are asked with the request to state a confidence; the prompts of a prompt dataset have to include it.
"""

from hf_calib.scripts.grpo import main, make_parser
from hf_calib.scripts.launch import run

if __name__ == "__main__":
    run(main, make_parser())
