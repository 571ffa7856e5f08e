"""
Restore the calibration of an aligned model by fine-tuning on multiple-choice questions (CFT, RCFT), or keep it while
fine-tuning on text: TRL's `sft.py` with calibration questions.

# CFT: the training data are the questions
```bash
python examples/sft.py \
    --model_name_or_path allenai/OLMo-2-1124-7B-DPO \
    --dataset_name allenai/openbookqa \
    --eval_calibration_dataset allenai/openbookqa:main:test \
    --learning_rate 5.0e-6 \
    --lr_scheduler_type cosine \
    --warmup_steps 0.1 \
    --num_train_epochs 5 \
    --output_dir OLMo-2-7B-CFT \
    --use_peft \
    --lora_r 128 \
    --lora_alpha 64 \
    --lora_dropout 0.05
```

# RCFT: the same with the calibration error as a regularizer
```bash
python examples/sft.py ... --em_weight 1
```

# Text, anchored to the model it starts from on questions that need no answers
```bash
python examples/sft.py \
    --model_name_or_path Qwen/Qwen2-0.5B \
    --dataset_name trl-lib/Capybara \
    --calibration_dataset questions.jsonl \
    --anchor_weight 5 \
    --learning_rate 2.0e-4 \
    --output_dir Qwen2-0.5B-SFT-calibrated \
    --use_peft
```
"""

from hf_calib.scripts.launch import run
from hf_calib.scripts.sft import main, make_parser

if __name__ == "__main__":
    run(main, make_parser())
