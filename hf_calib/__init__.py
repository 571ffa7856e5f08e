"""Calibrated confidence for aligned language models: measure it, keep it while aligning, restore it afterwards."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
