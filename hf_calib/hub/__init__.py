"""The Hub: model cards, publishing and loading.

For trainers and scripts:

- `CalibrationCardData`, `DatasetReference`, `Evaluation`: measurements and settings for a card.
- `render_card(data, existing=None)`, `write_card(folder, data)`: the model card, new or updated.
- `save_calibration_metadata(folder, ...)`: the prompt format, the base model's revision and the calibrator, which
  `add_calibrator(folder, calibrator)` adds later.
- `publish_adapter(folder, repo_id, ...)`, `publish_metric(name, namespace=...)`: one commit each.
- `load(name)`: model, tokenizer, prompt format and calibrator together; `ensemble([...])`: adapters on one base model.

torch is imported only when a model is loaded.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
