"""A small world whose true probabilities are known, and models that learn it on a laptop."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
