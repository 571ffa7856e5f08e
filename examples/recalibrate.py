"""
Repair the calibration of a model that was aligned elsewhere, without labels: anchor its answers to multiple-choice
questions to those of the model that its alignment started from.

```bash
python examples/recalibrate.py \
    --model_name_or_path allenai/OLMo-2-1124-7B-DPO \
    --calibration_reference_model allenai/OLMo-2-1124-7B \
    --calibration_dataset allenai/openbookqa:main:train \
    --eval_calibration_dataset allenai/openbookqa:main:test \
    --learning_rate 1.0e-4 \
    --num_train_epochs 3 \
    --output_dir OLMo-2-7B-DPO-recalibrated \
    --use_peft \
    --lora_r 16 \
    --lora_alpha 32
```

A large reference has to be loaded only once for any number of runs: `hf_calib.reference_distributions(...).save(
"reference.safetensors")`, then `--calibration_reference_model reference.safetensors`.
"""

from hf_calib.scripts.launch import run
from hf_calib.scripts.recalibrate import main, make_parser

if __name__ == "__main__":
    run(main, make_parser())
