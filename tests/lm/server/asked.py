"""Short requests."""

from __future__ import annotations

from typing import Any

from rlaif.core.records import Message
from rlaif.lm.protocol import ChoiceRequest, GenerateRequest


def ask(text: str, **fields: Any) -> GenerateRequest:
    return GenerateRequest((Message("user", text),), **({"max_new_tokens": 9, "temperature": 1.0, "seed": 1} | fields))


def choose(text: str = "(A) or (B)?", prefix: str = "(") -> ChoiceRequest:
    return ChoiceRequest((Message("user", text),), ("A", "B"), prefix)
