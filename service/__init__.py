"""Serves trained image classifiers from self-describing ONNX files.

Read `app.py` first: it wires the other modules together.
"""

__version__ = "0.1.0"
