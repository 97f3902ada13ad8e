"""The types of a record's fields, as `datasets` takes them: a large file may have nothing but null in a field for its
first megabytes, and types that are guessed from these do not fit what follows."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

VALUES = {str: "string", int: "int64", float: "float64", bool: "bool"}


@cache
def features_of(kind: type) -> dict[str, Any]:
    """Field -> its type, for `datasets.Features.from_dict`; raises TypeError for a record without fixed types."""
    hints = get_type_hints(kind, include_extras=True)
    return {field.name: _feature(hints[field.name]) for field in fields(kind)}


def _feature(hint: Any) -> dict[str, Any]:
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _feature(inner[0])
    if origin in (Union, UnionType):
        (known,) = [part for part in inner if part is not NoneType]
        return _feature(known)
    if origin is Literal:
        return _feature(type(inner[0]))
    if origin is tuple and inner[1:] == (...,):
        return {"feature": _feature(inner[0]), "_type": "List"}
    if is_dataclass(hint):
        return features_of(hint)  # type: ignore[arg-type]
    if hint in VALUES:
        return {"dtype": VALUES[hint], "_type": "Value"}
    raise TypeError(f"{hint} is of no fixed type")
