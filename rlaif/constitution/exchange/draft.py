"""What every format shares: what a format is, and the draft that its reader makes of a file: principles in its order,
what had no place, what was done; and the YAML of it."""

from __future__ import annotations

import re
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from rlaif.constitution.exchange.source import SourceFile, shown
from rlaif.constitution.format import MAX_ID, PrincipleEntry, slug, words_of
from rlaif.core.records import Constitution
from rlaif.core.yaml import dump_styled

WIDTH = 118
ID_WORDS = 4
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_SAY_LITTLE = """
    a all also an and any anything are as assistant assistants at be been best better by can choose compare
    content could critique discuss do does for from give has have how human humans identify if in into is it its
    less look make making more most name new not of on one or out please prefer preceding provide read remove
    request response responses reply answer revise revision rewrite said say says select should so specific
    something that than the their them these they this those to version was way ways what whether which while
    who with would write you your"""
_PLAIN = frozenset(_SAY_LITTLE.split())
"""Words that tell nothing about what a wording asks for; ids are made of the others."""


OPTIONAL = ("rationale", "priority", "weight", "tags", "critique", "revision", "comparison", "contrast", "tests")
"""The fields of a principle beside id and statement."""


@dataclass(frozen=True, slots=True)
class Format:
    """A format that constitutions come in from and go out to; its name is that on the command line.

    `knows` tells from the JSON data whether a file is surely of this format; None: not a JSON format. `read` fills the
    draft. `write` gives the text and counts in its second argument what is special about what is lost. `holds`: the
    fields that a file of it can hold, besides the statement.
    """

    name: str
    knows: Callable[[Any], bool] | None
    read: Callable[[SourceFile, Draft], None]
    write: Callable[[Constitution, Counter[str]], str]
    holds: frozenset[str]
    may_be: Callable[[Any], bool] | None = None
    """Tells whether a file that no format knows for sure can be of this one."""


@dataclass(slots=True)
class Draft:
    """Collects what an importer finds. `left_out`: what -> how many; `notes`: sentences for the reader."""

    format: str
    name: str | None = None
    version: str = "1"
    description: str = ""
    principles: list[dict[str, Any]] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    renamed: list[tuple[str, str]] = field(default_factory=list)
    _taken: Counter[str] = field(default_factory=Counter)
    _ids: set[str] = field(default_factory=set)

    def add(self, wanted: str, **fields: Any) -> None:
        """One more principle. Its id is `wanted` as far as that is one, else what comes next to it and is free."""
        id = self._free(slug(wanted) or "principle")
        if id != wanted:
            self.renamed.append((wanted, id))
        self.principles.append(
            {"id": id, **{name: part for name, part in fields.items() if part not in ("", [], None)}}
        )

    def _free(self, wanted: str) -> str:
        id = wanted
        while id in self._ids:
            self._taken[wanted] += 1
            ending = f"-{self._taken[wanted] + 1}"
            id = wanted[: MAX_ID - len(ending)].strip("-") + ending
        self._ids.add(id)
        return id

    def note_duplicates(self) -> None:
        """A note with how many principles have the very statement of an earlier one; they are kept."""
        counts = Counter(entry["statement"] for entry in self.principles)
        more = sum(count - 1 for count in counts.values())
        if more:
            self.notes.append(f"{more} of the statements stand more than once; all are kept, with ids of their own")

    def text(self, source: SourceFile) -> str:
        """The YAML of the constitution: where it is from and what was left out, as comments, then its principles."""
        lines = [f"Imported by rlaif from {shown(source.path.name)}: format {self.format}, SHA-256 {source.hash}."]
        lines += [f"Left out: {count} x {what}." for what, count in self.left_out.items()]
        lines += [f"{note[0].upper()}{note[1:]}." for note in self.notes]
        comments = [f"# {part}" for line in lines for part in textwrap.wrap(line, WIDTH - 2)]
        head = {"name": self.name, "version": self.version, "description": self.description}
        fields = dump_styled({name: part for name, part in mended(head).items() if part})
        entries = [dump_styled([mended(entry)]) for entry in self.principles]
        return "\n".join([*comments, "", f"{fields}\nprinciples:\n", "\n".join(entries)])


def topic(text: str) -> str:
    """An id of the first words of a wording that say what it is about."""
    words = words_of(text)
    telling = [word for word in words if word not in _PLAIN] or words
    return slug(" ".join(telling[:ID_WORDS]))


def mended(data: Any) -> Any:
    """The data with every half of a surrogate pair, which no file can hold, replaced by U+FFFD."""
    if isinstance(data, str):
        return _SURROGATE.sub("\ufffd", data)
    if isinstance(data, list):
        return [mended(part) for part in data]
    return {key: mended(part) for key, part in data.items()} if isinstance(data, dict) else data


def broken_characters(text: str) -> int:
    """How many halves of surrogate pairs stand in the text."""
    return len(_SURROGATE.findall(text))


def is_texts(data: Any) -> bool:
    """Whether the JSON data is a list of texts."""
    return isinstance(data, list) and bool(data) and all(isinstance(text, str) for text in data)


def default(field: str) -> Any:
    """The default of a principle's field, as a record has it."""
    found = PrincipleEntry.model_fields[field].get_default(call_default_factory=True)
    return tuple(found) if isinstance(found, list) else found


def wordings(constitution: Constitution, lost: Counter[str]) -> list[tuple[str, str]]:
    """(critique, revision) of each principle; in general words, with the rule, where it has none of its own."""
    found = []
    for p in constitution.principles:
        critique, revision = p.critique, p.revision
        if critique is None:
            critique = f"Name in one or two sentences what in the answer goes against this rule: {p.statement}"
        if revision is None:
            revision = f"Write the answer again so that it follows this rule: {p.statement}"
        general = [name for name in ("critique", "revision") if getattr(p, name) is None]
        lost.update(f"own {name}, for which general words with the statement stand" for name in general)
        lost.update(["statement"] if not general and p.statement != p.revision else [])
        found.append((critique, revision))
    return found


def on_one_line(texts: Iterable[str], lost: Counter[str]) -> list[str]:
    """The texts without line breaks, which are counted as lost."""
    lines = []
    for text in texts:
        lines.append(" ".join(text.split()))
        lost.update(["line breaks of a statement"] if lines[-1] != text else [])
    return lines
