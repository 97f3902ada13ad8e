"""Reading YAML safely: plain data only, duplicate keys refused, aliases refused, and the line of every key."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlaif.core.errors import RlaifError

MAX_BYTES = 4_000_000
Keys = tuple[str | int, ...]
Lines = dict[Keys, int]
# what ruamel raises for a value that does not fit its tag (`!!float ""`, a time out of range) or is nested too deep
_UNFIT = (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, AssertionError, RecursionError)


def read_yaml(path: Path, error: type[RlaifError]) -> tuple[Any, Lines]:
    """Plain data of the file and the 1-based line of every key path; any problem raises `error` with file and line."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise error("no such file", where=str(path), remedy="check the path") from None
    except OSError as problem:
        raise error(f"cannot be read: {problem.strerror}", where=str(path)) from None
    if len(raw) > MAX_BYTES:
        raise error(f"{len(raw):,} bytes is more than {MAX_BYTES:,}", where=str(path), remedy="split the file")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        line = raw.count(b"\n", 0, problem.start) + 1
        raise error("is not UTF-8 text", where=f"{path}:{line}", remedy="save the file as UTF-8") from None
    return parse_yaml(text, str(path), error)


def parse_yaml(text: str, where: str, error: type[RlaifError]) -> tuple[Any, Lines]:
    """Plain data of YAML `text` and the line of every key path."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError
    from ruamel.yaml.nodes import MappingNode, ScalarNode, SequenceNode

    reader = YAML(typ="safe", pure=True)
    try:
        root = reader.compose(text)
        lines: Lines = {}
        stack: list[tuple[Any, tuple[str | int, ...]]] = [(root, ())]
        seen: set[int] = set()
        while stack:
            node, path = stack.pop()
            if node is None:
                continue
            if id(node) in seen:
                raise error(
                    "an alias (*name) repeats a part of the file",
                    where=f"{where}:{node.start_mark.line + 1}",
                    remedy="write the text out",
                )
            seen.add(id(node))
            lines.setdefault(path, node.start_mark.line + 1)
            if isinstance(node, MappingNode):
                for key, value in node.value:
                    if not isinstance(key, ScalarNode):
                        raise error(
                            "a key must be one word or text, not a list or table",
                            where=f"{where}:{key.start_mark.line + 1}",
                            remedy="write the key as text; values in braces need quotes around them",
                        )
                    lines[(*path, key.value)] = key.start_mark.line + 1
                    stack.append((value, (*path, key.value)))
                    lines.setdefault((*path, key.value), key.start_mark.line + 1)
            elif isinstance(node, SequenceNode):
                stack.extend((value, (*path, index)) for index, value in enumerate(node.value))
        return None if root is None else reader.constructor.construct_document(root), lines
    except MarkedYAMLError as problem:
        mark = problem.problem_mark or problem.context_mark
        line = mark.line + 1 if mark is not None else 1
        what = (problem.problem or problem.context or "is not YAML").splitlines()[0]
        raise error(what, where=f"{where}:{line}", remedy=_remedy(what)) from None
    except (YAMLError, *_UNFIT) as problem:
        what = (str(problem) or type(problem).__name__).splitlines()[0]
        raise error(f"is not YAML: {what}", where=where, remedy=_remedy(what)) from None


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
