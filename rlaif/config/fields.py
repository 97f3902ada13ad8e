"""What several tables of the config share."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

from rlaif.core.plugins import short_name

SPEED: JsonDict = {"speed": True}


def speed_field(default: Any, **about: Any) -> Any:
    """A field that cannot change what a stage writes, only how fast it does, or whether it may begin: a run may go on
    with another value. Takes what pydantic's `Field` takes."""
    return Field(default, json_schema_extra=SPEED, **about)


class ConfigTable(BaseModel):
    """A config table: unknown keys are errors, and values stay as they were read."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @classmethod
    def speed_fields(cls) -> set[str]:
        """The names of the fields that are made by `speed_field`."""
        return {name for name, info in cls.model_fields.items() if info.json_schema_extra == SPEED}

    def settings(self) -> dict[str, Any]:
        """Field -> value, ready for JSON, of everything that can change what a stage writes."""
        return self.model_dump(mode="json", exclude=self.speed_fields())


SCORED_ANYWAY = frozenset(
    {
        *("response_id", "prompt_id", "slice", "model", "prompt", "response", "finish", "step", "score", "kl"),
        *("length", "words", "finished", "distinct_2", "repetition", "refusal", "refusals", "entropy", "gain"),
        *("best", "base_logprob"),
    }
)
"""Columns that stand beside the gold scores in a run's files."""


def _with_columns_of_their_own(names: list[str]) -> list[str]:
    columns = [short_name(name) for name in dict.fromkeys(names)]
    twice = next((column for column in columns if columns.count(column) > 1 or column in SCORED_ANYWAY), None)
    if twice is not None:
        raise ValueError(f"two figures would be called {twice}: give the class of a scorer another name")
    return names


GoldNames = Annotated[list[str], AfterValidator(_with_columns_of_their_own)]
"""Scorers of the table in rlaif/gold, or a user's own as "module:Class"."""


class LoraTable(ConfigTable):
    """What the trained stages share."""

    lora_r: int = Field(16, ge=1, description="rank of the LoRA adapter")
    lora_alpha: int = Field(32, ge=1, description="scale of the LoRA adapter, as alpha / rank")
    learning_rate: float = Field(2e-4, gt=0, description="of AdamW")
    max_length: int = Field(320, ge=16, description="tokens of prompt and response together")
