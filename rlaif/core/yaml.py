"""Reading YAML safely: plain data only, duplicate keys refused, aliases refused, and the line of every key."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from rlaif.core.errors import RlaifError
from rlaif.core.files import read_text

MAX_BYTES = 4_000_000
Keys = tuple[str | int, ...]
Lines = dict[Keys, int]
# what ruamel raises for a value that does not fit its tag (`!!float ""`, a time out of range) or is nested too deep
_UNFIT = (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, AssertionError, RecursionError)
ROOM = 100
"""Characters of a text that stands on one line, and of a line of a folded one."""
REMOVED = object()
_SIMPLE = re.compile(r"[A-Za-z][\w,.;!?'()-]*(?: [\w,.;!?'()-]+)+", re.ASCII)
"""Texts of several plain words, which YAML reads as they stand: no colon, "#", quote at the start, number or date."""
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
    return parse_yaml(read_text(path, error, most=MAX_BYTES), str(path), error)


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


Places = Mapping[Keys, Span]


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
    from ruamel.yaml import YAML

    writer = YAML()
    writer.default_flow_style = False
    writer.width = width
    return _dumped(writer, data)


def styled(value: Any, *, block: bool = True) -> Any:
    """The value with marks on its texts for `dump_styled`: a long text is folded, one of several lines stands line by
    line, others are in double quotes unless they are plain words, and a list of such stands on one line. `block`: not
    within braces or brackets, where every text stands on one line."""
    from ruamel.yaml.comments import CommentedMap, CommentedSeq
    from ruamel.yaml.scalarstring import FoldedScalarString, LiteralScalarString

    if isinstance(value, dict):
        return CommentedMap({key: styled(part, block=block) for key, part in value.items()})
    if isinstance(value, list | tuple):
        parts = CommentedSeq([styled(part, block=block) for part in value])
        if not any(isinstance(part, dict | list | FoldedScalarString | LiteralScalarString) for part in parts):
            parts = CommentedSeq([styled(part, block=False) for part in value])
            parts.fa.set_flow_style()
        return parts
    return _styled_text(value, block) if isinstance(value, str) else value


def dump_styled(data: Any) -> str:
    """The data as block-style YAML, laid out as `styled` says, the entries of lists indented by two."""
    return _dumped(_writer(indented=True), styled(data))


def change_yaml(text: str, keys: Keys, value: Any, *, order: Sequence[str] = ()) -> str:
    """The text with the value under `keys` set, put in (in its place in `order`, else last), or removed for REMOVED.

    The library writes the whole text anew, and loses layout that it has no place for: `weight:    2`, a line break
    within a plain text, and the comments below what is removed. So only the lines of the value are taken from what it
    wrote, and every other line stays as it is. Whether the result means what was wanted is for the caller to see: where
    the lines cannot be told apart, it does not.
    """
    from ruamel.yaml.comments import CommentedSeq
    from ruamel.yaml.scalarstring import DoubleQuotedScalarString, FoldedScalarString, LiteralScalarString

    before = spans(text)
    above, last = keys[:-1], keys[-1]
    writer = _writer(indented=_column(text, _first_entry(before)) > 0)
    data = writer.load(text)
    table: Any = data
    for key in above:
        table = table[key]
    block = not any(before[keys[:depth]].flow for depth in range(len(keys)))
    if value is REMOVED:
        del table[last]
    elif keys in before:
        new, old = styled(value, block=block), table[last]
        if isinstance(old, FoldedScalarString | LiteralScalarString) and isinstance(new, DoubleQuotedScalarString):
            new = type(old)(value) if _reads_as(_dumped(_writer(), {"k": type(old)(value)}), value) else new
        table[last] = new
    elif isinstance(table, CommentedSeq):
        table.append(styled(value, block=block))
    else:
        known = order[: order.index(str(last))] if last in order else list(table)
        place = max((number + 1 for number, key in enumerate(table) if key in known), default=len(table))
        table.insert(place, last, styled(value, block=block))
    written = _dumped(writer, data)
    after = spans(written)
    for depth in range(len(keys), 0, -1):
        found = _with_lines_of(written, after, text, before, keys[:depth], whole=depth == len(keys), value=value)
        if found is not None:
            return found
    return written


def _with_lines_of(
    written: str, after: Places, text: str, before: Places, keys: Keys, *, whole: bool, value: Any
) -> str | None:
    """The text with the lines of what stands under `keys` as in `written`; None where it has no lines of its own."""
    if any(before[keys[:depth]].flow for depth in range(len(keys)) if keys[:depth] in before):
        return None
    if whole and value is REMOVED:
        at = before[keys]
        start, end = _line_start(text, at.key), _line_end(text, at.end)
        alone = text[start : at.key].strip() == ("-" if isinstance(keys[-1], int) else "")
        siblings = sum(len(path) == len(keys) and path[:-1] == keys[:-1] for path in before)
        return text[:start] + text[end + 1 :] if alone and siblings > 1 else None
    if keys in before:
        old, new = before[keys], after[keys]
        lines = written[new.key : _line_end(written, new.end)]
        shift = _column(text, old) - _column(written, new)
        return text[: old.key] + _shifted(lines, shift) + text[_line_end(text, old.end) :]
    siblings_after = [path for path in after if len(path) == len(keys) and path[:-1] == keys[:-1]]
    place = siblings_after.index(keys)
    if place == 0:
        return None
    beside = siblings_after[place - 1]
    new = after[keys]
    start = _line_start(written, new.key)
    lines = written[start : _line_end(written, new.end)]
    shift = _indent(text, before[beside]) - _indent(written, after[beside])
    end = _line_end(text, before[beside].end)
    return f"{text[:end]}\n{_shifted(' ' * max(shift, 0) + lines[max(-shift, 0) :], shift)}{text[end:]}"


def _first_entry(places: Places) -> Span | None:
    """The first entry of the first list in block style that is not the whole text."""
    firsts = [keys for keys in places if len(keys) > 1 and keys[-1] == 0]
    return next((places[keys] for keys in firsts if not places[keys[:-1]].flow), None)


def _indent(text: str, at: Span) -> int:
    """The column where the line begins that a value's key, or the dash before it, stands in."""
    start = _line_start(text, at.key)
    return len(text[start:]) - len(text[start:].lstrip(" "))


def _column(text: str, at: Span | None) -> int:
    return 0 if at is None else at.key - _line_start(text, at.key)


def _shifted(lines: str, shift: int) -> str:
    """The lines but for the first, moved to the right; to the left if `shift` is negative."""
    first, *rest = lines.split("\n")
    moved = [line[-shift:] if shift < 0 else " " * shift + line if line else line for line in rest]
    return "\n".join([first, *moved])


def _line_start(text: str, at: int) -> int:
    return text.rfind("\n", 0, at) + 1


def _line_end(text: str, at: int) -> int:
    end = text.find("\n", at)
    return len(text) if end < 0 else end


def comments(text: str) -> list[str]:
    """Every comment of a YAML text, in its order."""
    from ruamel.yaml import YAML
    from ruamel.yaml.tokens import ScalarToken

    found: list[str] = []
    end = 0
    for token in YAML(typ="safe", pure=True).scan(text):
        found += re.findall(r"#[^\n]*", text[end : token.start_mark.index])
        end = max(end, token.end_mark.index)
        if isinstance(token, ScalarToken) and token.style in ("|", ">"):
            head = text[token.start_mark.index : end].partition("\n")[0]
            found += re.findall(r"#[^\n]*", head)
    return found


def _styled_text(text: str, block: bool) -> str:
    from ruamel.yaml.scalarstring import DoubleQuotedScalarString, FoldedScalarString, LiteralScalarString

    # In brackets "?", and ":" at the beginning, mean something to readers that the library does not heed.
    safe = block or not ("?" in text or text.startswith(":"))
    if safe and _SIMPLE.fullmatch(text) and len(text) <= ROOM:  # reading thousands of texts again takes minutes
        return text
    found: str | None = None
    if not block:
        pass
    elif text.isprintable() and " ".join(text.split()) == text:
        if len(text) > ROOM:
            folded: Any = FoldedScalarString(text)
            ends = [len(line) for line in textwrap.wrap(text, ROOM, break_long_words=False, break_on_hyphens=False)]
            folded.fold_pos = [sum(ends[: n + 1]) + n for n in range(len(ends) - 1)]
            found = folded
    elif "\n" in text and text == text.strip() and all(line.isprintable() for line in text.split("\n")):
        found = LiteralScalarString(text)
    if found is not None and (_SIMPLE.fullmatch(text) or _reads_as(_dumped(_writer(), {"k": found}), text)):
        return found
    plain = safe and _dumped(_writer(), {"k": text}) == f"k: {text}\n"
    return text if plain and len(text) <= ROOM else DoubleQuotedScalarString(text)


def _reads_as(written: str, text: str) -> bool:
    found = survey_yaml(written)
    return not found.mistakes and found.data == {"k": text}


def _writer(*, indented: bool = True) -> Any:
    """The library's round trip with the settings that keep every line of the shipped constitutions as it is."""
    from ruamel.yaml import YAML

    writer = YAML()
    writer.Representer = _representer()
    writer.preserve_quotes = True
    writer.width = 1 << 30
    writer.indent(mapping=2, sequence=4 if indented else 2, offset=2 if indented else 0)
    return writer


@cache
def _representer() -> Any:
    """The library's way to write values, but null as a word. A class of its own: it is the class that remembers it."""
    from ruamel.yaml.representer import RoundTripRepresenter

    class Representer(RoundTripRepresenter):
        pass

    Representer.add_representer(type(None), lambda self, _: self.represent_scalar("tag:yaml.org,2002:null", "null"))
    return Representer


def _dumped(writer: Any, data: Any) -> str:
    from io import StringIO

    out = StringIO()
    writer.dump(data, out)
    return out.getvalue()


def _remedy(what: str) -> str:
    if "duplicate key" in what:
        return "each key may stand once"
    if "'\\t'" in what or "tab" in what:
        return "indent with spaces, not tabs"
    if "mapping values" in what:
        return "put a text with a colon and a space in it into quotes; else check the indentation there"
    return "check the indentation, the colons and the quotes there"
