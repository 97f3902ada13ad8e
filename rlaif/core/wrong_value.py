"""What belongs in a field that holds a wrong value, in plain words rather than pydantic's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from rlaif.core.errors import near

SAID = {
    "int_type": "a whole number belongs here",
    "int_parsing": "a whole number belongs here",
    "int_from_float": "a whole number belongs here",
    "float_type": "a number belongs here",
    "float_parsing": "a number belongs here",
    "finite_number": "a finite number belongs here",
    "bool_type": "true or false belongs here",
    "bool_parsing": "true or false belongs here",
    "string_type": "a text belongs here",
    "greater_than_equal": "must be {ge} or more",
    "greater_than": "must be above {gt}",
    "less_than_equal": "must be {le} or less",
    "less_than": "must be below {lt}",
}
"""Kind of a pydantic error -> the sentence, with the bounds of its context."""


def wrong_value(error: Mapping[str, Any]) -> str:
    """The sentence about one of the errors that a pydantic ValidationError lists; pydantic's own where we have none."""
    kind, given, context = error["type"], error["input"], error.get("ctx", {})
    if kind in SAID:
        return SAID[kind].format(**context)
    if kind == "list_type":
        return (
            f"a list belongs here, such as [{given}]" if isinstance(given, str | int | float) else "a list belongs here"
        )
    if kind == "literal_error":
        names = re.findall(r"'([^']*)'", context["expected"])
        return f"write one of {', '.join(names)}{near(str(given), names)}"
    return str(error["msg"]).removeprefix("Value error, ")
