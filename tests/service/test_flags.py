"""What flags allow, in words."""

from __future__ import annotations

import argparse
from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, Field, ValidationError, field_validator

from service.flags import allowed, complaint, formatter_of


class Flags(BaseModel):
    count: int = Field(3, ge=1, le=100_000, description="how many")
    seed: int = Field(0, ge=0, description="where to begin")
    share: Annotated[float, Field(gt=0, le=1)] | None = Field(None, description="how much")
    offset: float = Field(0, description="how far")
    most: float = Field(1, le=5, description="how far at most")
    rates: tuple[Annotated[float, Field(gt=0)], ...] = Field((), description="how often")
    how: Literal["fast", "slow", "not at all"] = Field("fast", description="in which way")
    only: Literal["this"] = Field("this", description="the only one")
    name: str = Field("any", description="100 % free")
    even: bool = Field(False, description="whether")

    @field_validator("name")
    @classmethod
    def _not_long(cls, value: str) -> str:
        if value in {"", "long"}:
            raise ValueError("must be short")
        return value


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("count", "a whole number from 1 to 100000"),
        ("seed", "a whole number from 0 up"),
        ("share", "a number above 0, at most 1"),
        ("offset", "a number"),
        ("most", "a number, at most 5"),
        ("rates", "a number above 0, or several separated by commas"),
        ("how", "fast, slow or not at all"),
        ("only", "this"),
        ("name", ""),
        ("even", ""),
    ],
)
def test_what_is_allowed_is_said(name, words):
    assert allowed(Flags, name).replace(".0", "") == words


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"count": "many"}, "must be a whole number from 1 to 100000, not 'many'"),
        ({"count": "1.5"}, "must be a whole number from 1 to 100000, not '1.5'"),
        ({"count": "0"}, "must be a whole number from 1 to 100000, not '0'"),
        (
            {"rates": ["1", "x"]},
            "must be a number above 0, or several separated by commas, not 'x'",
        ),
        ({"how": "so"}, "must be fast, slow or not at all, not 'so'"),
        ({"name": "long"}, "must be short, not 'long'"),
        ({"name": ""}, "must be short"),
        ({"name": b"\xff"}, "must be text, not b'\\xff'"),
        ({"seed": "x" * 1000}, f"must be a whole number from 0 up, not '{'x' * 99}..."),
    ],
)
def test_a_bad_value_is_complained_of_in_the_same_words(values, said):
    with pytest.raises(ValidationError) as refused:
        Flags.model_validate(values)
    (error,) = refused.value.errors()
    assert complaint(Flags, error).replace(".0", "") == said


def test_the_help_has_allowed_values_and_defaults():
    parser = argparse.ArgumentParser(formatter_class=formatter_of(Flags))
    for name, field in Flags.model_fields.items():
        parser.add_argument(f"--{name}", help=str(field.description).replace("%", "%%"))
    text = " ".join(parser.format_help().split())
    assert "how many (a whole number from 1 to 100000) [3]" in text
    assert "in which way (fast, slow or not at all) [fast]" in text
    assert "100 % free [any]" in text
    assert text.endswith("whether")
