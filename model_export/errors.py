"""Every error that the exporter raises on purpose; the command line prints each as one line.

source   --weights-->  WeightsError (no such file, not safe, wrong keys), DownloadError
labels   --labels-->   LabelsError
images   --prepare-->  PreprocessorError (a configuration of timm or Hugging Face is not understood)
network  --graph-->    GraphError (it can't be written as the model file's graph)
file     --verify-->   ParityError (its answers differ from PyTorch's),
                       AgreementError (in lower precision, they differ too much from float32's)
images   --read-->     ImagesError
foreign  --adopt-->    AdoptError (a foreign ONNX file is not a classifier that can be wrapped)
training --step-->     TrainingError
command  --options-->  OptionsError, MissingPackageError
"""

from __future__ import annotations


class ExportError(Exception):
    """The base class of all errors raised on purpose."""


class WeightsError(ExportError):
    """Trained weights are missing, unreadable, unsafe, or for another network."""


class DownloadError(WeightsError):
    """Official weights could not be downloaded completely and unchanged."""


class LabelsError(ExportError):
    """A labels file is unreadable or does not fit the network."""


class PreprocessorError(ExportError):
    """A configuration of timm or Hugging Face has unknown or contradicting keys."""


class GraphError(ExportError):
    """The network can't be written as a model file's graph."""


class ParityError(ExportError):
    """The file's answers differ from PyTorch's."""


class AgreementError(ExportError):
    """A file of lower precision agrees too little with the float32 one."""


class AdoptError(ExportError):
    """A foreign ONNX file is not an image classifier that can become a model file."""


class ImagesError(ExportError):
    """Images can't be read, or belong to none of the model's classes."""


class TrainingError(ExportError):
    """Training can't continue."""


class OptionsError(ExportError):
    """Options that are individually valid do not fit together."""


class MissingPackageError(ExportError):
    """A package of the `export` extra, or a runtime, is not installed."""
