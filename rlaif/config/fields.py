"""What every table of the config is."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict
from pydantic.config import JsonDict

SPEED: JsonDict = {"speed": True}
"""Marks a field that cannot change what a stage writes, only how fast, or whether it may begin: `json_schema_extra` of
the field. A run may go on with another value."""


class Table(BaseModel):
    """A config table: unknown keys are errors, values are checked when assigned."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @classmethod
    def speed_fields(cls) -> set[str]:
        """The names of the fields that are marked with SPEED."""
        return {name for name, info in cls.model_fields.items() if info.json_schema_extra == SPEED}

    def settings(self) -> dict[str, Any]:
        """Field -> value, ready for JSON, of everything that can change what a stage writes."""
        return self.model_dump(mode="json", exclude=self.speed_fields())
