"""What is asked: multiple-choice questions, where they come from, and how they are put to a model."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
