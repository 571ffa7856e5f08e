"""
Train a reward model whose probability of the preference is calibrated: TRL's `reward.py` with the ECE regularizer.

```bash
python examples/reward.py \
    --model_name_or_path Qwen/Qwen2-0.5B-Instruct \
    --dataset_name trl-lib/ultrafeedback_binarized \
    --preference_weight 1 \
    --learning_rate 1.0e-5 \
    --eval_strategy steps \
    --eval_steps 50 \
    --output_dir Qwen2-0.5B-Reward-calibrated
```
"""

from hf_calib.scripts.launch import run
from hf_calib.scripts.reward import main, make_parser

if __name__ == "__main__":
    run(main, make_parser())
