"""Prose documents: a heading with text below it is a principle, and so is each item of a list that stands alone.

Front matter and the text before the first rule become name, version and description. Of the text below a heading the
first paragraph is the statement, with the list that it announces by a colon; the rest is the rationale. A heading that
only holds others becomes a tag of theirs. Line breaks within a paragraph mean nothing. The marks of quotations and the
boxes of tasks are taken off; tables are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from rlaif.constitution.compose import VERSION
from rlaif.constitution.exchange.draft import Draft, topic
from rlaif.constitution.exchange.source import Source, refuse, shown
from rlaif.constitution.format import slug
from rlaif.core.errors import ConstitutionError
from rlaif.core.records import Constitution
from rlaif.core.yaml import dump_yaml, parse_yaml

EXPECTED = "headings with a paragraph below each, or a list with one principle an item"
_FRONT = re.compile(r"\A---[ \t]*\n(.*?)^---[ \t]*$\n?", re.MULTILINE | re.DOTALL)
_TAG = re.compile(r"(?<!\\)</?[a-zA-Z][^<>\n]*>")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_FENCED = re.compile(r"^( {0,3}(`{3,}|~{3,}).*?(?:^ {0,3}\2[`~]*[ \t]*$|\Z))", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r" {0,3}(#{1,6})(?:[ \t]+(.*))?$")
_CLOSING = re.compile(r"(?:^|[ \t])#+$")
_UNDERLINE = re.compile(r" {0,3}(=+|-+)[ \t]*$")
_BREAK = re.compile(r" {0,3}([-*_])(?:[ \t]*\1){2,}[ \t]*$")
_ITEM = re.compile(r"( *)([-*+]|\d{1,9}[.)])(?:[ \t]+(.*)|)$")
_BOX = re.compile(r"\[[ xX]\][ \t]+")
_QUOTE = re.compile(r"^ {0,3}>(?: ?>)* ?", re.MULTILINE)
_TABLE = re.compile(r" {0,3}\||(?=[^\n]*\|)[^\n]*\n[ \t]*:?-+:?[ \t]*\|[-:| \t]*(?:\n|\Z)")
_ATTRIBUTES = re.compile(r"\s*\{\s*#([^\s}]+)[^}]*\}\s*$")
_NUMBERED = re.compile(r"\d+(?:\.\d+)*[.)]?\s+")
_BOLD = re.compile(r"(\*\*|__)(.+?)\1")
_ESCAPED = re.compile(r"\\([!-/:-@\[-`{-~])")
_MARK = re.compile(r"([-#*+>`~=_|]|\d{1,9}(?=[.)]))")


@dataclass(slots=True)
class _Block:
    """A paragraph, a table as it stands, or the items of a list."""

    text: str = ""
    items: list[str] = field(default_factory=list)
    table: bool = False

    def __str__(self) -> str:
        return self.text or "\n".join("- " + item.replace("\n", "\n  ") for item in self.items)


@dataclass(slots=True)
class _Section:
    """A heading with what stands below it; level 0 is what stands above the first one."""

    level: int
    heading: str
    blocks: list[_Block] = field(default_factory=list)

    @property
    def id(self) -> str:
        match = _ATTRIBUTES.search(self.heading)
        return slug(match[1] if match else _NUMBERED.sub("", self.heading, count=1) or self.heading)


def read(source: Source, draft: Draft) -> None:
    """The principles of the document in its order."""
    body = _without_front(source, draft)
    parts = _FENCED.split(body)  # text, fenced block, its fence, text, ...
    texts, fenced = [_QUOTE.sub("", text) for text in parts[::3]], parts[1::3]
    counted = [_without_comments(text) for text in texts]
    comments = sum(count for _, count in counted)
    draft.left_out.update({"HTML comment": comments} if comments else {})
    tags = sum(len(_TAG.findall(text)) for text, _ in counted)
    if tags:
        draft.notes.append(f"{tags} HTML tags stand in the texts as they were")
    pieces = [text + block for (text, _), block in zip(counted, [*fenced, ""], strict=True)]
    sections = list(_sections("".join(pieces).split("\n")))
    tables = sum(block.table for section in sections for block in section.blocks)
    draft.left_out.update({"table": tables} if tables else {})
    for section in sections:
        section.blocks = [block for block in section.blocks if not block.table]
    _principles(_titled(sections, draft), draft)
    nothing = "has no heading with text below it and no list" + ("; tables are not read" if tables else "")
    refuse(source, [] if draft.principles else [nothing], EXPECTED)


def _without_comments(text: str) -> tuple[str, int]:
    """The text without its HTML comments, and how many they were."""
    kept: list[str] = []
    at = 0
    while (start := text.find("<!--", at)) >= 0:
        end = text.find("-->", start)
        if end < 0:
            break
        escaped = text[start - 1 : start] == "\\"
        kept.append(text[at : start + 4] if escaped else text[at:start])
        at = start + 4 if escaped else end + 3
    return "".join([*kept, text[at:]]), sum(not part.endswith("\\<!--") for part in kept)


def _without_front(source: Source, draft: Draft) -> str:
    match = _FRONT.match(source.text)
    if match is None:
        return source.text
    try:
        data: Any = parse_yaml(match[1], str(source.path), ConstitutionError, as_text=VERSION)[0]
    except ConstitutionError:
        data = None
    if not isinstance(data, dict):
        draft.left_out["front matter that is not YAML with keys"] += 1
        return source.text[match.end() :]
    for key, value in data.items():
        known = isinstance(value, str | int | float) and str(value).strip()
        if known and key in ("name", "title") and draft.name is None:
            draft.name = str(value)
        elif known and key == "version":
            draft.version = str(value).strip()
        elif known and key in ("description", "summary") and not draft.description:
            draft.description = str(value).strip()
        else:
            draft.left_out[f"{shown(str(key))} of the front matter"] += 1
    return source.text[match.end() :]


def _titled(sections: list[_Section], draft: Draft) -> list[_Section]:
    """The sections with rules; what stands above them goes into the description, a title into the name."""
    intro, rest = sections[0], sections[1:]
    title = rest[0] if rest and rest[0].level == 1 and sum(section.level == 1 for section in rest) == 1 else None
    if title is not None and (len(rest) > 1 or any(block.items for block in title.blocks)):
        draft.name = draft.name or title.heading
        intro.blocks += title.blocks
        rest = rest[1:]
    if not rest:  # a plain list
        rest = [_Section(1, "", [block for block in intro.blocks if block.items])]
        intro.blocks = [block for block in intro.blocks if not block.items]
    about = [str(block) for block in intro.blocks]
    draft.description = "\n\n".join(filter(None, [draft.description, *about]))
    return rest


def _principles(sections: list[_Section], draft: Draft) -> None:
    groups: list[_Section] = []
    tagged = False
    for section, after in zip(sections, [*sections[1:], None], strict=True):
        groups = [group for group in groups if group.level < section.level]
        tags = [group.id for group in groups if group.id]
        first = section.blocks[0] if section.blocks else None
        if first is None and after is not None and after.level > section.level:
            groups.append(section)
        elif first is None:
            draft.left_out["heading without text"] += 1
        elif first.items:
            tags += [section.id] if section.id else []
            tagged = tagged or bool(tags)
            for item in (item for block in section.blocks for item in block.items):
                bold = _BOLD.match(item)
                draft.add(slug(bold[2]) if bold else topic(item), statement=item, tags=tags)
            after_list = sum(not block.items for block in section.blocks)
            draft.left_out.update({"paragraph beside a list of principles": after_list} if after_list else {})
        else:
            listed = first.text.endswith(":") and len(section.blocks) > 1 and bool(section.blocks[1].items)
            statement = "\n".join(str(block) for block in section.blocks[: 1 + listed])
            rationale = "\n\n".join(str(block) for block in section.blocks[1 + listed :])
            tagged = tagged or bool(tags)
            draft.add(section.id, statement=statement, rationale=rationale, tags=tags)
    if tagged:
        draft.notes.append("headings above the rules became tags")


# --- lines to blocks --------------------------------------------------------------------------------------------------


def _sections(lines: list[str]) -> Iterator[_Section]:
    """The sections of the document, the first of them what stands above any heading."""
    section = _Section(0, "")
    at = 0
    while at < len(lines):
        line = lines[at]
        heading = _HEADING.match(line)
        if heading is not None:
            yield section
            title = _CLOSING.sub("", (heading[2] or "").rstrip())
            section, at = _Section(len(heading[1]), _plain([title])), at + 1
        elif (fence := _FENCE.match(line)) is not None:
            end = next((n for n in range(at + 1, len(lines)) if lines[n].strip().startswith(fence[1])), len(lines))
            section.blocks.append(_Block("\n".join(lines[at : end + 1])))
            at = end + 1
        elif not line.strip() or _BREAK.match(line):
            at += 1
        elif _ITEM.match(line):
            block, at = _list(lines, at)
            section.blocks += [block] if block.items else []
        else:
            end = _paragraph_end(lines, at)
            text = _plain(lines[at:end])
            if end < len(lines) and (underline := _UNDERLINE.match(lines[end])) is not None:
                yield section
                section, at = _Section(1 if underline[1].startswith("=") else 2, text), end + 1
            else:
                section.blocks.append(_Block(text, table=_TABLE.match("\n".join(lines[at:end])) is not None))
                at = end
    yield section


def _paragraph_end(lines: list[str], start: int) -> int:
    """The line behind the paragraph that begins in `start`."""
    for at in range(start + 1, len(lines)):
        line = lines[at]
        if not line.strip() or _HEADING.match(line) or _FENCE.match(line) or _UNDERLINE.match(line) or _begins(line):
            return at
    return len(lines)


def _begins(line: str) -> bool:
    """Whether a list begins in a line below text: one with numbers has to begin with 1."""
    item = _ITEM.match(line)
    return item is not None and (not item[2][0].isdigit() or item[2][:-1] == "1")


def _list(lines: list[str], at: int) -> tuple[_Block, int]:
    """The list that begins in a line, and the line behind it. What is indented further belongs to its item."""
    first = _ITEM.match(lines[at])
    indent = len(first[1]) if first else 0
    found: list[list[str]] = []
    blank = False
    while at < len(lines):
        line = lines[at]
        item = _ITEM.match(line)
        deeper = len(line) - len(line.lstrip()) > indent + 1
        if item is not None and not deeper and not _BREAK.match(line):
            found.append([_BOX.sub("", item[3] or "", count=1)])
        elif line.strip() and ((blank and not deeper) or _HEADING.match(line) or _BREAK.match(line)):
            break
        elif line.strip():
            found[-1].append(line)
        blank = not line.strip()
        at += 1
    return _Block(items=list(filter(None, map(_item, found)))), at


def _item(lines: list[str]) -> str:
    """The text of an item; the items of lists within it stand below on lines of their own, all at one depth."""
    parts = [lines[:1]]
    for line in lines[1:]:
        inner = _ITEM.match(line.lstrip())
        if inner is not None and (len(parts) > 1 or _begins(line.lstrip())):
            parts.append([_BOX.sub("", inner[3] or "", count=1)])
        else:
            parts[-1].append(line)
    first, *rest = map(_plain, parts)
    return "\n".join(filter(None, [first, *(f"- {text}" for text in rest if text)]))


def _plain(lines: list[str]) -> str:
    """One paragraph of the lines, with backslashes before marks taken away."""
    return _ESCAPED.sub(r"\1", " ".join(" ".join(lines).split()))


# --- writing ----------------------------------------------------------------------------------------------------------


def write(constitution: Constitution) -> str:
    """The document: front matter, the name as title, a heading for each principle with statement and rationale."""
    front = dump_yaml({"name": constitution.name, "version": constitution.version})
    parts = [f"---\n{front}---", f"# {constitution.name}", *_paragraphs(constitution.description)]
    for principle in constitution.principles:
        parts += [f"## {principle.id}", _marked(principle.statement), *_paragraphs(principle.rationale)]
    return "\n\n".join(parts) + "\n"


def _paragraphs(text: str) -> list[str]:
    return [_marked(part) for part in re.split(r"\n[^\S\n]*\n", text) if part.strip()]


def _marked(text: str) -> str:
    """The text as one paragraph in which nothing counts as Markdown's own mark at its beginning."""
    line = " ".join(text.split()).replace("\\", "\\\\").replace("<!--", "\\<!--")
    match = _MARK.match(line)
    if match is None:
        return line
    return f"{match[1]}\\{line[match.end() :]}" if match[1].isdigit() else f"\\{line}"
