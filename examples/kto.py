"""
Align a model with KTO on completions marked as wanted or not, and keep it calibrated: TRL's `kto.py` with calibration
questions.

# LoRA, anchored to the model it starts from, without labels
```bash
python examples/kto.py \
    --model_name_or_path Qwen/Qwen2-0.5B \
    --dataset_name trl-lib/kto-mix-14k \
    --calibration_dataset allenai/openbookqa:main:train \
    --eval_calibration_dataset allenai/openbookqa:main:test \
    --supervised_weight 0 \
    --per_device_train_batch_size 16 \
    --num_train_epochs 1 \
    --learning_rate 5.0e-6 \
    --output_dir Qwen2-0.5B-KTO-calibrated \
    --use_peft \
    --lora_r 32 \
    --lora_alpha 16
```
"""

from hf_calib.scripts.kto import main, make_parser
from hf_calib.scripts.launch import run

if __name__ == "__main__":
    run(main, make_parser())
