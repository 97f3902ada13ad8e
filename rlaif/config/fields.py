"""What every table of the config is."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

SPEED: JsonDict = {"speed": True}


def speed_field(default: Any, **about: Any) -> Any:
    """A field that cannot change what a stage writes, only how fast it does, or whether it may begin: a run may go on
    with another value. Takes what pydantic's `Field` takes."""
    return Field(default, json_schema_extra=SPEED, **about)


class ConfigTable(BaseModel):
    """A config table: unknown keys are errors, values are checked when assigned."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @classmethod
    def speed_fields(cls) -> set[str]:
        """The names of the fields that are made by `speed_field`."""
        return {name for name, info in cls.model_fields.items() if info.json_schema_extra == SPEED}

    def settings(self) -> dict[str, Any]:
        """Field -> value, ready for JSON, of everything that can change what a stage writes."""
        return self.model_dump(mode="json", exclude=self.speed_fields())
