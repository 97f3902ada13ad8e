"""Pydantic's errors in plain words."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field, ValidationError, field_validator

from rlaif.core.wrong_value import wrong_value


class Sample(BaseModel):
    count: int = Field(1, ge=1, le=9)
    share: float = Field(0.5, gt=0, lt=1, allow_inf_nan=False)
    on: bool = False
    name: str = "x"
    names: list[str] = []
    kind: Literal["soft", "hard"] = "soft"

    @field_validator("name")
    @classmethod
    def _is_no_number(cls, value: str) -> str:
        if value.isdigit():
            raise ValueError("is no name")
        return value


@pytest.mark.parametrize(
    ("field", "given", "sentence"),
    [
        ("count", "ten", "a whole number belongs here"),
        ("count", 1.5, "a whole number belongs here"),
        ("count", [1], "a whole number belongs here"),
        ("count", 0, "must be 1 or more"),
        ("count", 10, "must be 9 or less"),
        ("share", "half", "a number belongs here"),
        ("share", float("nan"), "a finite number belongs here"),
        ("share", 0, "must be above 0.0"),
        ("share", 1, "must be below 1.0"),
        ("on", "perhaps", "true or false belongs here"),
        ("name", ["a", "b"], "a text belongs here"),
        ("name", "12", "is no name"),
        ("names", "harm", "a list belongs here, such as [harm]"),
        ("names", {"harm": 1}, "a list belongs here"),
        ("kind", "sofd", "write one of soft, hard, did you mean 'soft'?"),
        ("kind", 3, "write one of soft, hard"),
    ],
)
def test_a_wrong_value_is_told_in_plain_words(field: str, given: Any, sentence: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Sample.model_validate({field: given})
    (error,) = caught.value.errors()
    assert wrong_value(error) == sentence
