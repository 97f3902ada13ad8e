"""Reading YAML safely: plain data only, duplicate keys refused, aliases refused, and the line of every key."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rlaif.core.errors import RlaifError

MAX_BYTES = 4_000_000
Keys = tuple[str | int, ...]
Lines = dict[Keys, int]
# what ruamel raises for a value that does not fit its tag (`!!float ""`, a time out of range) or is nested too deep
_UNFIT = (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, AssertionError, RecursionError)
_WRITTEN_AS_TEXT = frozenset(f"tag:yaml.org,2002:{kind}" for kind in ("int", "float", "timestamp"))


class Mistake(NamedTuple):
    """What is wrong at a 1-based line of a YAML text, under which keys, and what to write instead."""

    line: int | None
    keys: Keys
    what: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Document:
    """What can be read of a YAML text: plain data, the 1-based line of every key path, every mistake by line.

    `whole`: nothing was left out below a mistake in the syntax.
    """

    data: Any
    lines: Lines
    mistakes: tuple[Mistake, ...] = ()
    whole: bool = True


def read_yaml(path: Path, error: type[RlaifError]) -> tuple[Any, Lines]:
    """Plain data of the file and the 1-based line of every key path; any problem raises `error` with file and line."""
    return parse_yaml(read_text(path, error), str(path), error)


def read_text(path: Path, error: type[RlaifError]) -> str:
    """The text of a file that is UTF-8 and has at most MAX_BYTES, without a byte order mark; else raises `error`."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise error("no such file", where=str(path), remedy="check the path") from None
    except OSError as problem:
        raise error(f"cannot be read: {problem.strerror}", where=str(path), remedy="give a file") from None
    except ValueError as problem:
        raise error(f"cannot be read: {problem}", where=str(path), remedy="give a file") from None
    if len(raw) > MAX_BYTES:
        raise error(f"{len(raw):,} bytes is more than {MAX_BYTES:,}", where=str(path), remedy="split the file")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        line = raw.count(b"\n", 0, problem.start) + 1
        raise error("is not UTF-8 text", where=f"{path}:{line}", remedy="save the file as UTF-8") from None


def parse_yaml(text: str, where: str, error: type[RlaifError], *, as_text: Collection[Keys] = ()) -> tuple[Any, Lines]:
    """Plain data of YAML `text` and the line of every key path; the first mistake raises `error`."""
    found = survey_yaml(text, as_text=as_text)
    if not found.mistakes:
        return found.data, found.lines
    first = found.mistakes[0]
    place = where if first.line is None else f"{where}:{first.line}"
    raise error(first.what, where=place, remedy=first.remedy)


def survey_yaml(text: str, *, as_text: Collection[Keys] = ()) -> Document:
    """Everything that can be read of a YAML text and every mistake in it: a key that stands twice, an alias, a key that
    is no word, and the first mistake in the syntax, below which nothing is read.

    A number or date under one of the keys `as_text` is the text that stands there: 1.10 and not 1.1.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    reader = YAML(typ="safe", pure=True)
    try:
        root = reader.compose(text)
        lines, mistakes = _walk(root, as_text)
        data = None if root is None else reader.constructor.construct_document(root)
        return Document(data, lines, tuple(sorted(mistakes, key=lambda mistake: mistake.line or 0)))
    except MarkedYAMLError as problem:
        unclosed = problem.context_mark is not None and (problem.context or "").startswith("while scanning a quoted")
        mark = problem.context_mark if unclosed else problem.problem_mark or problem.context_mark
        line = mark.line + 1 if mark is not None else 1
        what = "this quote is never closed" if unclosed else problem.problem or problem.context or "is not YAML"
        mistake = Mistake(line, (), what.splitlines()[0], _remedy(what))
    except (YAMLError, *_UNFIT) as problem:
        what = (str(problem) or type(problem).__name__).splitlines()[0]
        return Document(None, {}, (Mistake(None, (), f"is not YAML: {what}", _remedy(what)),), whole=False)
    above = survey_yaml("".join(text.splitlines(keepends=True)[: line - 1]), as_text=as_text) if line > 1 else None
    if above is None or not above.whole:  # it reads no better without the line
        return Document(None, {}, (mistake,), whole=False)
    return Document(above.data, above.lines, (*above.mistakes, mistake), whole=False)


def _walk(root: Any, as_text: Collection[Keys]) -> tuple[Lines, list[Mistake]]:
    """The line of every key path, and the mistakes; each is taken out of the nodes, so that the rest can be read."""
    from ruamel.yaml.nodes import MappingNode, ScalarNode, SequenceNode

    lines: Lines = {} if root is None else {(): root.start_mark.line + 1}
    mistakes: list[Mistake] = []
    seen = {id(root)}
    stack: list[tuple[Any, Keys]] = [(root, ())]

    def child(node: Any, path: Keys) -> Any:
        """The node, or an empty one where it is an alias of one that was seen."""
        lines.setdefault(path, node.start_mark.line + 1)
        if id(node) in seen:
            line = node.start_mark.line + 1
            mistakes.append(Mistake(line, path, "an alias (*name) repeats a part of the file", "write the text out"))
            return ScalarNode("tag:yaml.org,2002:null", "", node.start_mark, node.end_mark)
        seen.add(id(node))
        stack.append((node, path))
        return node

    while stack:
        node, path = stack.pop()
        if isinstance(node, MappingNode):
            names: set[tuple[str | None, str]] = set()
            kept = []
            for key, value in node.value:
                line = key.start_mark.line + 1
                if not isinstance(key, ScalarNode):
                    remedy = "write the key as text; values in braces need quotes around them"
                    mistakes.append(Mistake(line, path, "a key must be one word or text, not a list or table", remedy))
                elif (key.tag, key.value) in names:
                    what = f"the key {key.value!r} stands twice"
                    mistakes.append(Mistake(line, (*path, key.value), what, "each key may stand once"))
                else:
                    names.add((key.tag, key.value))
                    lines[(*path, key.value)] = line
                    kept.append((key, child(value, (*path, key.value))))
            node.value = kept
        elif isinstance(node, SequenceNode):
            node.value = [child(value, (*path, number)) for number, value in enumerate(node.value)]
        elif path in as_text and isinstance(node, ScalarNode) and node.tag in _WRITTEN_AS_TEXT:
            node.tag = "tag:yaml.org,2002:str"
    return lines, mistakes


@dataclass(frozen=True, slots=True)
class Span:
    """Where a value stands in a text, as offsets of characters: `key` and `key_end` of its key (of the value itself in
    a list), `start` and `end` of the value without what follows it. `flow`: it is written in braces or brackets."""

    key: int
    key_end: int
    start: int
    end: int
    flow: bool


def spans(text: str) -> dict[Keys, Span]:
    """Where every value of a YAML text stands, by the path of its keys, in the order of the text; () is the whole. The
    text is one that `parse_yaml` takes."""
    from ruamel.yaml import YAML
    from ruamel.yaml.nodes import MappingNode, ScalarNode, SequenceNode

    found: dict[Keys, Span] = {}

    def visit(node: Any, path: Keys, key: Any) -> int:
        start: int = node.start_mark.index
        end: int = node.end_mark.index
        flow = not isinstance(node, ScalarNode) and bool(node.flow_style)
        first = node if key is None else key
        found[path] = Span(first.start_mark.index, first.end_mark.index, start, end, flow)
        children = []
        if isinstance(node, MappingNode):
            children = [visit(value, (*path, name.value), name) for name, value in node.value]
        elif isinstance(node, SequenceNode):
            children = [visit(value, (*path, number), None) for number, value in enumerate(node.value)]
        if not flow:  # a block ends where the next token begins, behind comments that are not its own
            end = max(children, default=start + len(text[start:end].rstrip()))
        found[path] = Span(first.start_mark.index, first.end_mark.index, start, end, flow)
        return end

    visit(YAML(typ="safe", pure=True).compose(text), (), None)
    return found


def parse_scalar(text: str) -> Any:
    """The value of one YAML scalar or flow list, as after `--set name=`; text that is no plain YAML stays text: one
    that does not parse, that has an alias, or whose value does not fit its tag (`2024-13-45`, `!!int z`)."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError
    from ruamel.yaml.tokens import AliasToken

    try:
        if any(isinstance(token, AliasToken) for token in YAML(typ="safe", pure=True).scan(text)):
            return text
        return YAML(typ="safe", pure=True).load(text)
    except (YAMLError, *_UNFIT):
        return text


def dump_yaml(data: Any, *, width: int = 110) -> str:
    """`data` as block-style YAML text."""
    from io import StringIO

    from ruamel.yaml import YAML

    writer = YAML()
    writer.default_flow_style = False
    writer.width = width
    out = StringIO()
    writer.dump(data, out)
    return out.getvalue()


def one_line(value: Any) -> str:
    """A plain value as YAML on one line that may stand anywhere, also in braces: texts in double quotes where they are
    not one simple word."""
    from ruamel.yaml.scalarstring import DoubleQuotedScalarString

    if isinstance(value, dict):
        return "{" + ", ".join(f"{one_line(key)}: {one_line(part)}" for key, part in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(one_line, value)) + "]"
    if value is None:
        return "null"
    simple = not isinstance(value, str) or (re.fullmatch(r"[A-Za-z][\w-]*", value) and parse_scalar(value) == value)
    scalar = value if simple else DoubleQuotedScalarString(value)
    return dump_yaml({"k": scalar}, width=1 << 30).removeprefix("k:").strip()


def _remedy(what: str) -> str:
    if "duplicate key" in what:
        return "each key may stand once"
    if "'\\t'" in what or "tab" in what:
        return "indent with spaces, not tabs"
    return "check the indentation, the colons and the quotes there"
