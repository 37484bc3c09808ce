"""Serves trained image classifiers from self-describing ONNX files.

Read `app.py` first: it wires the other modules together.
"""

from __future__ import annotations

import importlib

__version__ = "0.1.0"
__all__ = ["Classifier", "__version__"]


def __getattr__(name: str) -> object:
    """Import `Classifier` once it is asked for: the server and the client need none of it."""
    if name == "Classifier":
        return importlib.import_module("service.classifier").Classifier
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
