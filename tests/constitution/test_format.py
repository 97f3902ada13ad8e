"""The published JSON Schema is that of the code, and says what the loader says."""

import json
from pathlib import Path

from rlaif.constitution.format import ConstitutionFile, OverrideEntry, PrincipleEntry, json_schema

PUBLISHED = Path(__file__).parents[2] / "constitutions" / "schema.json"


def test_the_published_schema_is_up_to_date() -> None:
    current = json.dumps(json_schema(), indent=2) + "\n"
    assert PUBLISHED.read_text("utf-8") == current, "run: rlaif constitution schema > constitutions/schema.json"


def test_the_schema_allows_what_the_loader_allows_and_no_other_key() -> None:
    schema = json_schema()
    assert schema["properties"].keys() == ConstitutionFile.model_fields.keys()
    assert schema["required"] == ["name", "version"]
    assert schema["anyOf"] == [{"required": ["principles"]}, {"required": ["include"]}]
    assert schema["additionalProperties"] is False
    entry, override = (schema["$defs"][kind.__name__] for kind in (PrincipleEntry, OverrideEntry))
    assert (entry["required"], override["required"]) == (["id", "statement"], ["id", "override"])
    assert entry["properties"].keys() == override["properties"].keys()
    assert not any("default" in field for field in override["properties"].values()), "what is not given is kept"
    assert entry["properties"]["weight"]["default"] == 1.0
    assert (entry["properties"]["override"]["const"], override["properties"]["override"]["const"]) == (False, True)
