"""What a run is asked is judged before anything of it begins."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from model_export.errors import OptionsError
from model_export.training.options import HeldOutOptions, RecipeOptions


def recipe_options(**changes: Any) -> RecipeOptions:
    values: dict[str, Any] = dict.fromkeys(field.name for field in fields(RecipeOptions)) | {
        "epochs": 10, "sizes": ((16, 4), (32, 6)), "warmup_epochs": 2.0,
    }  # fmt: skip
    return RecipeOptions(**(values | changes))


@pytest.mark.parametrize("epochs", [9, 11])
def test_sizes_are_for_all_epochs(epochs: int):
    """With more, the last ones would never come."""
    with pytest.raises(OptionsError, match=f"--sizes cover 10 epochs, but --epochs is {epochs}"):
        recipe_options(epochs=epochs)


def test_a_warm_up_ends_before_the_run():
    with pytest.raises(OptionsError, match="--warmup-epochs 10: must be less than --epochs, 10"):
        recipe_options(warmup_epochs=10.0)


def test_a_fifth_is_held_out_unless_said_otherwise():
    assert HeldOutOptions(None, None, None).fraction == 0.2
    assert HeldOutOptions(None, 0.5, None).fraction == 0.5
