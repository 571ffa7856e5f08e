"""
Align a model with DPO and keep it calibrated: TRL's `dpo.py` with calibration questions.

# LoRA, anchored to the model it starts from and supervised by the questions' answers
```bash
python examples/dpo.py \
    --model_name_or_path Qwen/Qwen2-0.5B \
    --dataset_name trl-lib/ultrafeedback_binarized \
    --calibration_dataset allenai/openbookqa:main:train \
    --eval_calibration_dataset allenai/openbookqa:main:test \
    --learning_rate 5.0e-6 \
    --num_train_epochs 1 \
    --per_device_train_batch_size 8 \
    --gradient_accumulation_steps 4 \
    --eval_strategy steps \
    --eval_steps 50 \
    --output_dir Qwen2-0.5B-DPO-calibrated \
    --use_peft \
    --lora_r 32 \
    --lora_alpha 16
```

# Full weights, without labels, from files
```bash
python examples/dpo.py \
    --model_name_or_path Qwen/Qwen2-0.5B \
    --dataset_name pairs.jsonl \
    --calibration_dataset questions.csv \
    --supervised_weight 0 \
    --learning_rate 5.0e-7 \
    --output_dir Qwen2-0.5B-DPO-calibrated
```
"""

from hf_calib.scripts.dpo import main, make_parser
from hf_calib.scripts.launch import run

if __name__ == "__main__":
    run(main, make_parser())
