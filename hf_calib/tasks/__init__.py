"""Multiple-choice questions: reading them from datasets, and turning them into prompts and tokens."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
