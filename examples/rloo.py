"""
Align a model with RLOO and keep it calibrated: TRL's `rloo.py` with calibration questions.

```bash
python examples/rloo.py \
    --model_name_or_path Qwen/Qwen2-0.5B-Instruct \
    --dataset_name trl-lib/DeepMath-103K \
    --reward_funcs accuracy_reward \
    --calibration_dataset allenai/openbookqa:main:train \
    --eval_calibration_dataset allenai/openbookqa:main:test \
    --calibration_prompt chat \
    --supervised_weight 0 \
    --learning_rate 1.0e-5 \
    --output_dir Qwen2-0.5B-RLOO-calibrated \
    --use_peft
```

`--reward_funcs` takes names of rewards of `hf_calib.rewards` or TRL, and `package.module.function`;
`--reward_model_name_or_path` takes a reward model.
"""

from hf_calib.scripts.launch import run
from hf_calib.scripts.rloo import main, make_parser

if __name__ == "__main__":
    run(main, make_parser())
