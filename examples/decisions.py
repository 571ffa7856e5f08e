"""
Fine-tune a decision model that is calibrated: soft targets, the ECE regularizer toward the accuracy on held-out cases,
and one temperature per question type, saved with the adapter and the prompt.

# The benchmark's training split; figures before and after on its test split, card and results file
```bash
python examples/decisions.py \
    --model_name_or_path HuggingFaceTB/SmolLM2-135M-Instruct \
    --dataset_name LocalLLaMA/typed-decisions:all:train \
    --test_dataset LocalLLaMA/typed-decisions:all:test \
    --calibration_prompt chat \
    --em_weight 1 \
    --brier_weight 0.5 \
    --orders 2 \
    --learning_rate 2.0e-4 \
    --num_train_epochs 2 \
    --output_dir decisions \
    --use_peft
```

# Serve it
```bash
hf-calib serve --model HuggingFaceTB/SmolLM2-135M-Instruct --adapter decisions
```

`--anchor_weight` anchors the model to the one it starts from; `--em_weight 0 --brier_weight 0 --orders 1` is plain
fine-tuning to the gold distributions.
"""

from hf_calib.scripts.decisions import main, make_parser
from hf_calib.scripts.launch import run

if __name__ == "__main__":
    run(main, make_parser())
