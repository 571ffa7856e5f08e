"""The training scripts behind `hf-calib dpo`, `hf-calib sft` and so on, and behind `examples/*.py`."""
