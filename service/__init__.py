"""Serves trained image classifiers from self-describing ONNX files.

Read `app.py` first: it wires everything that the other modules define.
"""

__version__ = "0.1.0"
