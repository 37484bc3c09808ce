"""Every error that the exporter raises on purpose; the command line prints each as one line.

source   --weights-->  WeightsError (no such file, not safe, wrong keys), DownloadError
labels   --labels-->   LabelsError
network  --graph-->    GraphError (it can't be written as the model file's graph)
file     --verify-->   ParityError (it does not compute what PyTorch does),
                       AgreementError (in lower precision, it answers too much else)
images   --read-->     ImagesError
foreign  --adopt-->    AdoptError (a foreign ONNX file is no classifier that can be wrapped)
training --step-->     TrainingError
command  --options-->  OptionsError, MissingPackageError
"""

from __future__ import annotations


class ExportError(Exception):
    """The root of all errors raised on purpose."""


class WeightsError(ExportError):
    """Trained weights are missing, unreadable, unsafe, or of another network."""


class DownloadError(WeightsError):
    """Official weights could not be fetched whole and unchanged."""


class LabelsError(ExportError):
    """A labels file is unreadable or does not fit the network."""


class GraphError(ExportError):
    """The network can't be written as a model file's graph."""


class ParityError(ExportError):
    """The file's answers are not PyTorch's."""


class AgreementError(ExportError):
    """A file of lower precision agrees too little with the float32 one."""


class AdoptError(ExportError):
    """A foreign ONNX file is no image classifier that a model file can be made of."""


class ImagesError(ExportError):
    """Images can't be read, or are of no class of the model."""


class TrainingError(ExportError):
    """Training can't go on."""


class OptionsError(ExportError):
    """Options that are each valid do not fit together."""


class MissingPackageError(ExportError):
    """A package of the `export` extra, or a runtime, is not installed."""
