"""What may stand in a constitution file: the tables, the limits of every field, and their JSON Schema for editors."""

from __future__ import annotations

import re
import unicodedata
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, StringConstraints, Tag, WithJsonSchema

MAX_ID = 64
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Prose = Annotated[str, StringConstraints(strip_whitespace=True)]
"""Text that may be empty; like every constrained one it is Unicode, so half of a surrogate pair is refused."""
Slug = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", max_length=MAX_ID)]
Version = Annotated[Text, WithJsonSchema({"type": ["string", "number"], "minLength": 1})]
"""A number is read as the text that stands there (`compose.VERSION`)."""


class StrictTable(BaseModel):
    """A mapping with known keys only, whose values are not converted: true is no text."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class ExampleEntry(StrictTable):
    """A request, answered as the principle wants it and as it does not."""

    prompt: Text
    followed: Text
    violated: Text


class ContrastEntry(StrictTable):
    """Two system prompts that differ in the behaviour alone; judge.method: contrast needs them."""

    followed: Text = Field(description="system prompt of an assistant that follows the principle")
    violated: Text = Field(description="system prompt of an assistant that violates it, as long and built alike")
    examples: list[ExampleEntry] = Field(
        [], description="both assistants at work, with answers of about the same length"
    )


class TestEntry(StrictTable):
    """A unit test: under the principle `better` should win."""

    prompt: Text
    better: Text
    worse: Text


class _Fields(StrictTable):
    """What every principle may have and an override may change."""

    rationale: Prose = Field("", description="why the rule is there; no model sees it")
    priority: int = Field(1, ge=1, description="tier, 1 is the highest; acts on labels where judge.tier_margin is set")
    weight: float = Field(1.0, ge=0, le=1e6, description="how often it is drawn and how much it counts; 0 = never")
    tags: list[Text] = Field([], description="names by which a slice of the prompts can choose principles")
    critique: Text | None = Field(None, description="own wording: what to look for in an answer")
    revision: Text | None = Field(None, description="own wording: how to rewrite the answer")
    comparison: Text | None = Field(None, description="own wording: the question about two answers, for the better one")
    contrast: ContrastEntry | None = None
    tests: list[TestEntry] = Field([], description="pairs of answers of which the principle should decide")


class PrincipleEntry(_Fields):
    """One rule in plain language."""

    id: Slug = Field(description="unique; small letters, digits and hyphens")
    statement: Text = Field(description="the rule, in one or two sentences")
    override: Literal[False] = Field(False, description="true: change fields of an included principle")


class OverrideEntry(_Fields):
    """Changes to an included principle: the fields given here replace its own, all others are kept."""

    id: Slug = Field(description="the id of an included principle")
    override: Literal[True] = Field(description="true: change fields of an included principle")
    statement: Text = Field("", description="the rule, in one or two sentences")


def _tag(entry: Any) -> str:
    return "override" if isinstance(entry, dict) and entry.get("override") is True else "principle"


Entry = Annotated[
    Annotated[PrincipleEntry, Tag("principle")] | Annotated[OverrideEntry, Tag("override")], Discriminator(_tag)
]


class ConstitutionFile(StrictTable):
    """A constitution: principles of its own, and those of the constitutions that it includes."""

    model_config = ConfigDict(json_schema_extra={"anyOf": [{"required": ["principles"]}, {"required": ["include"]}]})

    name: Slug = Field(description="small letters, digits and hyphens")
    version: Version = Field(description='any text or number, such as 1 or "2026-05 draft"')
    description: Prose = ""
    include: list[Text] = Field(
        [], description="constitutions whose principles come first: a file beside this one (.yaml), or a shipped name"
    )
    disable: list[Slug] = Field([], description="ids of included principles to leave out")
    principles: list[Entry] = []


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a constitution file (draft 2020-12), with which an editor completes and checks one."""
    schema = ConstitutionFile.model_json_schema()
    for field in schema["$defs"]["OverrideEntry"]["properties"].values():
        field.pop("default", None)  # what an override does not give is kept, and not set to a default
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "rlaif constitution"}
    return {**head, **{name: part for name, part in schema.items() if name != "title"}}


def slug(text: str) -> str:
    """The text as an id: small ASCII letters and digits, hyphens between, at most MAX_ID long; maybe empty."""
    words = words_of(text)
    id = "-".join(words)
    if len(id) <= MAX_ID:
        return id
    return id[:MAX_ID].rpartition("-")[0] or id[:MAX_ID]


def words_of(text: str) -> list[str]:
    """The words of a text in small ASCII letters and digits."""
    plain = unicodedata.normalize("NFKD", re.sub("['\u2019]", "", text)).encode("ascii", "ignore").decode()
    return re.findall(r"[a-z0-9]+", plain.lower())
