"""
Align a model with PPO and keep it calibrated, where TRL has PPO (`pip install 'hf-calib[ppo]'`, trl<1.13).

```bash
python examples/ppo.py \
    --model_name_or_path EleutherAI/pythia-1b-deduped \
    --reward_model_path my-reward-model \
    --dataset_name prompts.jsonl \
    --calibration_dataset allenai/openbookqa:main:train \
    --eval_calibration_dataset allenai/openbookqa:main:test \
    --supervised_weight 0 \
    --learning_rate 3e-6 \
    --total_episodes 10000 \
    --output_dir pythia-1b-PPO-calibrated \
    --use_peft
```

The reward and value models are sequence classifiers with one label; the value model starts from the reward model.
"""

from hf_calib.scripts.launch import run
from hf_calib.scripts.ppo import main, make_parser

if __name__ == "__main__":
    run(main, make_parser())
