"""What every table of the config is."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Table(BaseModel):
    """A config table: unknown keys are errors, values are checked when assigned."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
