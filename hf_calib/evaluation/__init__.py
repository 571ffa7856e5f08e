"""Measure, compare, calibrate and diagnose models; the command line and the cards call these functions.

Each asks a model (`asking`) and returns a result with its numbers, its JSON and its files. torch is imported only when
a model is asked.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
