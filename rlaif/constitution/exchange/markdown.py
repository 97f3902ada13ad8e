"""Prose documents: a heading with text below it is a principle, and so is each item of a list.

Front matter and the text before the first rule become name, version and description. Of the text below a heading the
first paragraph is the statement, with a list that it announces by a colon; the other paragraphs are the rationale. A
heading that only holds others or a list becomes a tag. Where there is no heading and no list, each paragraph is a
principle. Bold, italics and links become plain text. What has no place is counted: tables, comments, the addresses of
links, paragraphs between the rules.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.tree import SyntaxTreeNode

from rlaif.constitution.compose import VERSION
from rlaif.constitution.exchange.draft import Draft, Format, on_one_line, topic
from rlaif.constitution.exchange.source import SourceFile, refuse, shown
from rlaif.constitution.format import slug
from rlaif.core.errors import ConstitutionError
from rlaif.core.records import Constitution
from rlaif.core.yaml import dump_yaml, parse_yaml

EXPECTED = "headings with a paragraph below each, a list with one principle an item, or two paragraphs at least"
_FRONT = re.compile(r"\A---[ \t]*\n(.*?)^---[ \t]*$\n?", re.MULTILINE | re.DOTALL)
_TAG = re.compile(r"</?[a-zA-Z][^<>\n]*>")
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_BOX = re.compile(r"\[[ xX]\]\s+")
_ATTRIBUTES = re.compile(r"\s*\{\s*#([^\s}]+)[^}]*\}\s*$")
_NUMBERED = re.compile(r"\d+(?:\.\d+)*[.)]?\s+")
_MARKS = re.compile(r"[\\`*_\[\]<>&!|~]|^(?:[-#+=]|\d{1,9}(?=[.)]))")


@dataclass(frozen=True, slots=True)
class _Item:
    """The text of a list's item, and what of it stands in bold at its start."""

    text: str
    bold: str


@dataclass(slots=True)
class _Block:
    """A paragraph, or the items of a list."""

    text: str = ""
    items: list[_Item] = field(default_factory=list)

    def __str__(self) -> str:
        return self.text or "\n".join("- " + item.text.replace("\n", "\n  ") for item in self.items)


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


def read(source: SourceFile, draft: Draft) -> None:
    """The principles of the document in its order."""
    tokens = MarkdownIt("commonmark").enable("table").parse(_without_front(source, draft))
    reader = _Reader(draft)
    sections = _titled(reader.sections(SyntaxTreeNode(tokens)), draft)
    _principles(sections, draft)
    if reader.tags:
        draft.notes.append(f"{reader.tags} HTML tags stand in the texts as they were")
    tables = "; tables are not read" if draft.left_out["table"] else ""
    draft.left_out += Counter()  # without what is counted 0 times
    nothing = f"has no heading with text below it, no list and no two paragraphs{tables}"
    refuse(source, [] if draft.principles else [nothing], EXPECTED)


@dataclass(slots=True)
class _Reader:
    """Makes sections of a document's tree. What has no place is counted in the draft; `tags`: HTML tags kept."""

    draft: Draft
    tags: int = 0

    def sections(self, root: SyntaxTreeNode) -> list[_Section]:
        found = [_Section(0, "")]
        for node in _nodes(root):
            if node.type == "heading":
                found.append(_Section(int(node.tag[1]), self.plain(node)))
            elif (block := self.block(node)) is not None:
                found[-1].blocks.append(block)
        return found

    def block(self, node: SyntaxTreeNode) -> _Block | None:
        """What a node below a heading holds; None where that is nothing, or has no place."""
        if node.type in ("bullet_list", "ordered_list"):
            items = [item for child in node.children if (item := self.item(child)).text]
            return _Block(items=items) if items else None
        if node.type == "table":
            self.draft.left_out["table"] += 1
            return None
        text = self.text(node)
        return _Block(text) if text else None

    def text(self, node: SyntaxTreeNode) -> str:
        if node.type in ("fence", "code_block"):
            marks = node.markup or "```"
            return f"{marks}{node.info}\n{node.content}{marks}"
        if node.type == "html_block":
            return " ".join(self.html(node.content).split())
        return self.plain(node)

    def item(self, node: SyntaxTreeNode) -> _Item:
        """The paragraphs of an item as one; the items of lists within it stand below on lines of their own, all at one
        depth."""
        own: list[str] = []
        below: list[str] = []
        for child in _nodes(node):
            block = self.block(child)
            if block is not None and block.text:
                (below if below else own).append(block.text)
            elif block is not None:
                below += [f"- {line.removeprefix('- ')}" for item in block.items for line in item.text.split("\n")]
        first = _BOX.sub("", " ".join(own), count=1) if _BOX.match(" ".join(own)) else " ".join(own)
        return _Item("\n".join(filter(None, [first, *below])), _bold(node))

    def plain(self, node: SyntaxTreeNode) -> str:
        """The words of a paragraph or heading, as one line."""
        return " ".join("".join(self.words(node)).split())

    def words(self, node: SyntaxTreeNode) -> Iterator[str]:
        for child in node.children:
            if child.type in ("softbreak", "hardbreak"):
                yield " "
            elif child.type == "code_inline":
                yield f"{child.markup}{child.content}{child.markup}"
            elif child.type == "html_inline":
                yield self.html(child.content)
            elif child.type in ("link", "image"):
                text = "".join(self.words(child))
                address = str(child.attrs.get("href" if child.type == "link" else "src", ""))
                if address.removeprefix("mailto:") != text:
                    self.draft.left_out[f"address of {'a link' if child.type == 'link' else 'an image'}"] += 1
                yield text
            elif child.children:
                yield from self.words(child)
            else:
                yield child.content

    def html(self, text: str) -> str:
        """HTML as it stands, without its comments."""
        kept, comments = _COMMENT.subn("", text)
        self.draft.left_out["HTML comment"] += comments
        self.tags += len(_TAG.findall(kept))
        return kept


def _nodes(node: SyntaxTreeNode) -> Iterator[SyntaxTreeNode]:
    """The headings, paragraphs, lists ... of a node, those of quotations too."""
    for child in node.children:
        if child.type == "blockquote":
            yield from _nodes(child)
        elif child.type != "hr":
            yield child


def _bold(item: SyntaxTreeNode) -> str:
    """The bold words that an item begins with."""
    node = item
    while node.children and node.type != "strong":
        node = next((child for child in node.children if child.type != "text" or child.content), node.children[0])
    return "".join(part.content for part in node.walk() if part.type == "text") if node.type == "strong" else ""


def _without_front(source: SourceFile, draft: Draft) -> str:
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
    intro.blocks = _announced(intro.blocks)
    lists = [block for block in intro.blocks if block.items]
    about = [block for block in intro.blocks if not block.items]
    if lists:
        rest = [_Section(1, "", lists), *rest]
    elif not rest and len(about) > 1:  # nothing but prose
        rest, about = [_Section(1, "", [_Block(items=[_Item(block.text, "")])]) for block in about], []
    draft.description = "\n\n".join(filter(None, [draft.description, *map(str, about)]))
    return rest


def _announced(blocks: list[_Block]) -> list[_Block]:
    """The blocks, each list that a paragraph announces by a colon as a part of it."""
    found: list[_Block] = []
    for block in blocks:
        if block.items and found and found[-1].text.endswith(":"):
            found[-1] = _Block(f"{found[-1].text}\n{block}")
        else:
            found.append(block)
    return found


def _principles(sections: list[_Section], draft: Draft) -> None:
    groups: list[_Section] = []
    tagged = False
    for number, section in enumerate(sections):
        groups = [group for group in groups if group.level < section.level]
        tags = [group.id for group in groups if group.id]
        blocks = _announced(section.blocks)
        texts = [block.text for block in blocks if block.text]
        items = [item for block in blocks for item in block.items]
        if not blocks and any(after.level > section.level for after in sections[number + 1 : number + 2]):
            groups.append(section)
        elif not blocks:
            draft.left_out["heading without text"] += 1
        if texts and blocks[0].text:
            draft.add(section.id, statement=texts[0], rationale="\n\n".join(texts[1:]), tags=tags)
        elif texts:
            draft.left_out["paragraph beside a list of principles"] += len(texts)
        tags += [section.id] if items and section.id else []
        for item in items:
            draft.add(slug(item.bold) or topic(item.text), statement=item.text, tags=tags)
        tagged = tagged or bool(blocks and tags)
    if tagged:
        draft.notes.append("headings above the rules became tags")


def _write(constitution: Constitution, lost: Counter[str]) -> str:
    """The document: front matter, the name as title, a heading for each principle with statement and rationale."""
    on_one_line((p.statement for p in constitution.principles), lost)
    front = dump_yaml({"name": constitution.name, "version": constitution.version})
    parts = [f"---\n{front}---", f"# {constitution.name}", *_paragraphs(constitution.description)]
    for principle in constitution.principles:
        parts += [f"## {principle.id}", _marked(principle.statement), *_paragraphs(principle.rationale)]
    return "\n\n".join(parts) + "\n"


def _paragraphs(text: str) -> list[str]:
    return [_marked(part) for part in re.split(r"\n[^\S\n]*\n", text) if part.strip()]


def _marked(text: str) -> str:
    """The text as one paragraph in which nothing counts as a mark of Markdown."""
    return _MARKS.sub(lambda mark: f"{mark[0]}\\" if mark[0].isdigit() else f"\\{mark[0]}", " ".join(text.split()))


MARKDOWN = Format("markdown", None, read, _write, frozenset({"name", "version", "description", "id", "rationale"}))
