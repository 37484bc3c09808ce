# For type checkers, to whom the module's `__getattr__` says nothing.
from service.classifier import Classifier as Classifier

__version__: str
__all__ = ["Classifier", "__version__"]
