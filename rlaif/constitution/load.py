"""Reading a constitution: safe YAML, strict keys, errors that name file, line, principle and field."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rlaif.config import PromptSlice, RunConfig
from rlaif.constitution.compose import ComposedConstitution, compose
from rlaif.constitution.diff import JudgingMethod
from rlaif.constitution.format import ContrastEntry, PrincipleEntry
from rlaif.core.errors import ConfigError, ConstitutionError, near
from rlaif.core.records import Constitution, Contrast, ContrastExample, Principle, PrincipleTest
from rlaif.core.yaml import dump_yaml


def load_constitution(name_or_path: str | Path) -> Constitution:
    """The constitution in a YAML file (anything with a "/" or ending in .yaml), or the shipped one of that name.

    What it includes is put together. Raises ConstitutionError naming every problem of a file with its line. Texts are
    taken literally: Jinja in them stays as it stands, because they enter templates as values.
    """
    return as_record(compose(name_or_path))


def as_record(composed: ComposedConstitution) -> Constitution:
    """The constitution as the other parts of rlaif use it."""
    file = composed.file
    principles = tuple(_principle(written.entry) for written in composed.principles)
    return Constitution(file.name, file.version, file.description.strip(), principles)


def constitution_text(name_or_path: str | Path) -> str:
    """The text of a file that is the whole constitution, for copying into a run: the file as it stands, comments and
    all, or, if it includes others, one with everything put together."""
    composed = compose(name_or_path)
    file = composed.file
    if not file.include:
        return composed.path.read_text(encoding="utf-8-sig")
    head: dict[str, Any] = {"name": file.name, "version": file.version}
    if file.description:
        head["description"] = file.description
    entries = [written.entry.model_dump(exclude_defaults=True) for written in composed.principles]
    principles = [{"id": entry["id"], "statement": entry["statement"], **entry} for entry in entries]
    origin = f"# Put together by rlaif from {composed.path.name} and what it includes: {', '.join(file.include)}\n\n"
    return origin + dump_yaml({**head, "principles": principles})


def refuse_missing_contrast(constitution: Constitution, *, methods: Iterable[JudgingMethod], where: str) -> None:
    """Raises ConstitutionError, pointing at `where`, if a principle lacks the text that a judging method needs."""
    needing = next((method.name for method in methods if method.needs_contrast), None)
    if needing is None:
        return  # every other method falls back on the statement
    missing = [principle.id for principle in constitution.principles if principle.contrast is None]
    if missing:
        raise ConstitutionError(
            f"the judging method {needing} needs a contrast pair, which these principles lack: {', '.join(missing)}",
            where=where,
            remedy="add to each principle contrast: {followed: You ..., violated: You ...}, or let rlaif constitution "
            "draft make some to start from, or choose another judge.method",
        )


def refuse_missing_contexts(constitution: Constitution, config: RunConfig, *, where: str) -> None:
    """Raises ConstitutionError, pointing at `where`, if a stage may have to answer under the contrast pair of a
    principle that has none."""
    trained = {name: part for name, part in config.prompts.items() if part.train}
    revised = {name: part for name, part in trained.items() if part.revise}
    asking = (
        (config.label.by_contrast, trained, f"label.answers: {config.label.answers}", "label.answers: policy"),
        (config.revise.method == "context", revised, "revise.method: context", "revise.method: critique"),
    )
    for needed, slices, setting, instead in asking:
        parts = by_slice(constitution, slices) if needed else {}
        drawn = {p.id: p for part in parts.values() for p in part.principles if p.weight > 0}
        missing = [name for name, principle in drawn.items() if principle.contrast is None]
        if missing:
            raise ConstitutionError(
                f"{setting} answers under a principle's contrast pair, which these principles lack: "
                f"{', '.join(missing)}",
                where=where,
                remedy=f"add to each principle contrast: {{followed: You ..., violated: You ...}}, or set {instead}",
            )


def by_slice(constitution: Constitution, prompts: Mapping[str, PromptSlice]) -> dict[str, Constitution]:
    """Name of the slice -> the part of the constitution that applies to it: the principles whose ids or tags it names,
    or all.

    Constitutional AI judges answers to red-team prompts for harmlessness and answers to ordinary requests for
    helpfulness (arXiv 2212.08073, section 4.1). Raises ConfigError for a name that is neither an id nor a tag, and for
    a slice that no principle with a weight applies to.
    """
    known = sorted({name for p in constitution.principles for name in (p.id, *p.tags)})
    parts = {}
    for name, part in prompts.items():
        where = f"prompts.{name}.principles"
        for wanted in part.principles:
            if wanted not in known:
                raise ConfigError(
                    f"{wanted!r} is no id or tag of a principle of {constitution.name!r}{near(wanted, known)}",
                    where=where,
                    remedy=f"there are: {', '.join(known)}",
                )
        wanted_names = set(part.principles)
        kept = tuple(p for p in constitution.principles if not wanted_names or wanted_names & {p.id, *p.tags})
        if not any(p.weight > 0 for p in kept):
            raise ConfigError("no principle with a weight above 0 applies to this slice", where=where)
        parts[name] = replace(constitution, principles=kept)
    return parts


def _principle(entry: PrincipleEntry) -> Principle:
    return Principle(
        id=entry.id,
        statement=entry.statement,
        rationale=entry.rationale.strip(),
        priority=entry.priority,
        weight=entry.weight,
        tags=tuple(entry.tags),
        critique=entry.critique,
        revision=entry.revision,
        comparison=entry.comparison,
        contrast=None if entry.contrast is None else _contrast(entry.contrast),
        tests=tuple(PrincipleTest(t.prompt, t.better, t.worse) for t in entry.tests),
    )


def _contrast(pair: ContrastEntry) -> Contrast:
    examples = tuple(ContrastExample(e.prompt, e.followed, e.violated) for e in pair.examples)
    return Contrast(pair.followed, pair.violated, examples)
