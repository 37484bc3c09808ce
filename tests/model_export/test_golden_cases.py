"""The golden cases of a new file."""

from __future__ import annotations

import numpy as np
import pytest
from networks import preprocessing

from model_export.errors import ParityError
from model_export.golden_cases import golden_cases
from model_export.reference import Outputs


@pytest.mark.parametrize("odd", [np.nan, np.inf])
def test_an_answer_that_is_not_finite_is_no_golden_case(odd: float):
    """Even if it is to one of the images alone."""

    def reference(images: np.ndarray) -> Outputs:
        answers = np.full((len(images), 2), 0.5, np.float32)
        answers[-1, 1] = odd
        return {"probabilities": answers}

    with pytest.raises(ParityError, match="answer to a golden case is not finite"):
        golden_cases(reference, preprocessing())
