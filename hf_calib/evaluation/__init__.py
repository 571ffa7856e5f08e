"""Measure, compare, calibrate and diagnose models; the command line and the cards call these functions.

Each asks what it is told to ask (`asking`), and returns a result that knows its numbers, its JSON and its files.
Nothing here imports torch before a model is asked.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
