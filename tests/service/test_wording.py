"""What is wrong with a value, in plain words."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pytest
from color_model import color_contract
from pydantic import BaseModel, Field, ValidationError, model_validator

from service.contract import ModelContract
from service.wording import what_is_wrong


class Form(BaseModel):
    count: int = Field(1, ge=1, le=9)
    share: float = Field(0.5, gt=0, lt=1, allow_inf_nan=False)
    kind: Literal["a", "b"] = "a"
    flag: bool = False
    name: str = "x"
    pair: tuple[int, int] = (1, 2)
    word: Annotated[str, Field(min_length=2, max_length=3)] = "ab"
    path: Path = Path()
    most: list[int] = Field([1], min_length=1, max_length=2)

    model_config = {"extra": "forbid"}

    @model_validator(mode="after")
    def _belongs_together(self):
        if self.count == 7:
            raise ValueError("count is 7, which nobody wants")
        return self


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"count": "x"}, "must be a whole number"),
        ({"count": 1.5}, "must be a whole number"),
        ({"count": 0}, "must be at least 1"),
        ({"count": 10}, "must be at most 9"),
        ({"count": 7}, "count is 7, which nobody wants"),
        ({"share": 0}, "must be above 0.0"),
        ({"share": 1}, "must be below 1.0"),
        ({"share": "nan"}, "must be a finite number"),
        ({"kind": "c"}, "must be 'a' or 'b'"),
        ({"flag": "maybe"}, "must be true or false"),
        ({"name": 1}, "must be text"),
        ({"pair": 1}, "must be a list"),
        ({"word": ""}, "must be 2 or more characters long"),
        ({"word": "abcd"}, "must be 3 or fewer characters long"),
        ({"path": 1}, "must be a path"),
        ({"most": []}, "must have at least 1 entries"),
        ({"most": [1, 2, 3]}, "must have at most 2 entries"),
        ({"other": 1}, "is unknown here"),
    ],
)
def test_a_bad_value_is_told_in_plain_words(values, said):
    with pytest.raises(ValidationError) as caught:
        Form.model_validate(values)
    assert what_is_wrong(caught.value.errors()[0]) == said


def test_nothing_that_a_broken_contract_can_bring_forth_speaks_as_pydantic_does():
    """Every field in turn is left out, and given values of every wrong kind."""
    wrong: tuple[object, ...] = (None, 1, "x", [], {}, [1], True)
    fields = color_contract().model_dump(mode="json")
    for name in fields:
        others = {key: value for key, value in fields.items() if key != name}
        for values in (
            others,
            *(others | {name: bad} for bad in wrong),
        ):
            try:
                ModelContract.model_validate(values)
            except ValidationError as error:
                said = [what_is_wrong(item) for item in error.errors()]
                for words in said:
                    assert not {"Input", "should", "Field", "valid"} & set(words.split()), words
