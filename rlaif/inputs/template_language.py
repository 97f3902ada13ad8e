"""The language of templates: a part of Jinja in which nothing can hang, fill the memory or write without end.

A template comes with a run folder, or with a method that somebody else wrote, and reads what models wrote. Each render
has room for ROOM steps and ROOM_EACH for every character that it is given. A step is: a character that is written or
made, an element of a list that is made or walked, a node of a loop or macro each time that it runs. So time and memory
are bounded by the same numbers on every machine. What could make much of little in a single step is measured before it
is done (`join`, `replace`, `indent`, `+`, `~`), takes numbers alone (`*`, `%`), or is not there (`**`, `'{:9999}'`,
`center`, lists in lists in lists). What is written is text or a number: a list would show how Python writes it.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from itertools import chain
from typing import Any

import jinja2
from jinja2 import Undefined, nodes, pass_context, pass_environment
from jinja2.ext import Extension
from jinja2.filters import FILTERS as JINJAS
from jinja2.runtime import Context, LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

LONGEST = 100_000
"""Characters of a template. The longest that is shipped has 1,700."""
ROOM, ROOM_EACH = 1_000_000, 20
LARGEST = 10**18
"""Of whole numbers, so that none takes long to multiply or to write."""
FILTERS = (
    "abs", "count", "d", "default", "first", "float", "int", "items", "last", "length", "list", "map", "max", "min",
    "reject", "rejectattr", "reverse", "select", "selectattr", "sort", "unique",
)  # fmt: skip
"""Of Jinja's filters those whose result is at most a few times as long as what they are given."""
TEXT_FILTERS = ("capitalize", "lower", "title", "trim", "upper", "wordcount")
"""Likewise, of texts: Jinja's own would also take a list, as Python writes it."""
TAKES = {"+": "for two numbers, texts or lists", "*": "for numbers", "%": "for numbers", "**": "not there"}
METHODS = (
    "capitalize", "casefold", "count", "endswith", "find", "get", "index", "isalnum", "isalpha", "isdigit", "islower",
    "isspace", "istitle", "isupper", "items", "keys", "lower", "lstrip", "partition", "removeprefix", "removesuffix",
    "rfind", "rpartition", "rsplit", "rstrip", "split", "splitlines", "startswith", "strip", "swapcase", "title",
    "upper", "values",
)  # fmt: skip
"""Of texts, lists and mappings, likewise."""

_ROOM = "room left"  # key in the context; not an identifier, so no template can name it
_TURNS, _BEGIN, _MADE, _FLAT = "each turn", "begins", "made", "flat"  # filters, likewise


class NotInTemplates(jinja2.TemplateRuntimeError):
    """The template does what no template may; `remedy` says what to write instead."""

    def __init__(self, what: str, remedy: str) -> None:
        self.remedy = remedy
        super().__init__(what)


class _Room:
    """How many steps a render has left."""

    def __init__(self, given: int) -> None:
        self.all = self.left = ROOM + ROOM_EACH * given

    def take(self, steps: int) -> None:
        """Takes these steps, before what they are for is done."""
        self.left -= steps
        if self.left < 0:
            raise NotInTemplates(
                f"takes more than {self.all:,} steps (characters written, elements of lists, turns of loops, calls)",
                f"let it do less: there are {ROOM:,} steps, and {ROOM_EACH} for each character that it is given",
            )


def room_for(values: Iterable[object]) -> dict[str, object]:
    """What a render must be given besides its values."""
    return {_ROOM: _Room(sum(map(_size, values)))}


def _size(value: object) -> int:
    """The characters in a value of a template, and one for each thing in it."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, tuple):
        return 1 + sum(map(_size, value))
    if is_dataclass(value):
        return 1 + sum(_size(getattr(value, field.name)) for field in fields(value))
    return 1


def _room(context: Context) -> _Room:
    found: _Room = context.parent[_ROOM]
    return found


class Environment(ImmutableSandboxedEnvironment):
    """Jinja's sandbox with that language. `own_filters` come on top of FILTERS: each gives at most a few times what it
    is given."""

    intercepted_binops = frozenset({"+", "*", "%", "**"})

    def __init__(self, own_filters: Mapping[str, Any], extensions: list[type[Extension]]) -> None:
        super().__init__(
            undefined=jinja2.StrictUndefined,
            extensions=extensions,
            autoescape=False,  # plain text for a model; the report escapes what it shows
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,  # what is constant is not computed while the template is read: there is no room yet
            finalize=_written,
        )
        self.globals = {name: self.globals[name] for name in ("range", "namespace")}
        self.filters = {name: JINJAS[name] for name in FILTERS}
        self.filters |= {name: _of_text(JINJAS[name]) for name in TEXT_FILTERS}
        self.filters |= {"join": _join, "replace": _replace, "indent": _indent, "round": _round}
        self.filters |= {"truncate": _truncate, **own_filters}
        self.offered = sorted(self.filters)
        self.filters |= {_TURNS: _turns, _BEGIN: _begin, _MADE: _made, _FLAT: _flat}

    def counted(self, tree: nodes.Template) -> nodes.Template:
        """The tree with every step counted; raises TemplateSyntaxError for what the language has not."""
        for node in tree.find_all((nodes.Block, nodes.ScopedEvalContextModifier, nodes.For)):
            if not isinstance(node, nodes.For) or node.recursive:
                words = "a loop cannot be recursive" if isinstance(node, nodes.For) else "blocks are not there"
                raise jinja2.TemplateSyntaxError(f"{words}; write a macro", node.lineno)
        found: nodes.Template = _Counting().visit(tree)
        return found

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        texts = (str, list, tuple)
        if operator == "+" and isinstance(left, texts) and isinstance(right, texts):
            _room(context).take(len(left) + len(right))
            return self.binop_table[operator](left, right)
        if isinstance(left, Undefined) or isinstance(right, Undefined):
            return self.binop_table[operator](left, right)  # which raises, and names it
        if operator == "**" or not (isinstance(left, int | float) and isinstance(right, int | float)):
            raise NotInTemplates(f"{operator} is {TAKES[operator]}", "count with numbers, join with ~")
        made = self.binop_table[operator](_bounded(left), _bounded(right))
        return _bounded(made)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        # named as in Jinja, since a template chooses the names in kwargs
        if not _may_be_called(__self, __obj):
            name = getattr(__obj, "__name__", type(__obj).__name__)
            raise NotInTemplates(
                f"{name} cannot be called",
                "call a macro, range, namespace, or a method of a text such as strip; "
                f"or write a filter: {', '.join(__self.offered)}",
            )
        return _made(__context, super().call(__context, __obj, *args, **kwargs))


def _may_be_called(environment: Environment, found: Any) -> bool:
    own = getattr(found, "__self__", None)
    return (
        isinstance(found, Undefined | Macro)  # an Undefined says which name it is that is not there
        or any(found is known for known in environment.globals.values())
        or isinstance(own, Extension | LoopContext)
        or (isinstance(own, str | list | tuple | dict) and found.__name__ in METHODS)
    )


class _Counting(NodeTransformer):
    """Puts the counting filters into a tree."""

    def visit_Output(self, node: nodes.Output) -> nodes.Node:
        # Jinja writes the template's own text past `_written`, unless it is a constant.
        node.nodes = [
            nodes.Const(part.data, lineno=part.lineno) if isinstance(part, nodes.TemplateData) else part
            for part in node.nodes
        ]
        return self.generic_visit(node)

    def visit_For(self, node: nodes.For) -> nodes.Node:
        size = _nodes(node.body) + (0 if node.test is None else _nodes([node.test]))
        self.generic_visit(node)
        node.iter = _filter(node.iter, _TURNS, size)
        return node

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:
        return self._begins(node)

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.Node:
        return self._begins(node)

    def _begins(self, node: Any) -> nodes.Node:
        size = _nodes(node.body)
        self.generic_visit(node)
        first = nodes.ExprStmt(_filter(nodes.Const(size, lineno=node.lineno), _BEGIN), lineno=node.lineno)
        node.body = [first, *node.body]
        return node  # type: ignore[no-any-return]

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _filter(nodes.List(node.nodes, lineno=node.lineno), "join")

    def visit_Filter(self, node: nodes.Filter) -> nodes.Node:
        self.generic_visit(node)
        return _filter(node, _MADE)

    def visit_List(self, node: nodes.List) -> nodes.Node:
        self.generic_visit(node)
        return _filter(node, _FLAT)

    visit_Dict = visit_List

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        self.generic_visit(node)
        return _filter(node, _FLAT) if node.ctx == "load" else node


def _filter(node: nodes.Node, name: str, *args: int) -> nodes.Filter:
    given = [nodes.Const(arg, lineno=node.lineno) for arg in args]
    return nodes.Filter(node, name, given, [], None, None, lineno=node.lineno)


def _nodes(trees: Iterable[nodes.Node]) -> int:
    """The nodes of the trees, themselves among them."""
    return sum(1 + sum(1 for _ in tree.find_all(nodes.Node)) for tree in trees)


# ---- what counts -----------------------------------------------------------------------------------------------------


@pass_context
def _written(context: Context, value: object) -> str:
    """What stands in a message for a value."""
    text = _text(value)
    _room(context).take(len(text))
    return text


def _text(value: object) -> str:
    if isinstance(value, str | int | float | Undefined) or value is None:
        return str(value)  # of an Undefined raises, and says what is not there
    kind = type(value).__name__
    raise NotInTemplates(
        f"a {kind} is no text", "write one of its parts, a list as `| join(', ')`, a prompt as `| dialogue`"
    )


@pass_context
def _turns(context: Context, values: Any, size: int) -> Any:
    """The values that a loop with a body of `size` nodes goes through."""
    values = _made(context, values)
    if hasattr(values, "__len__"):
        _room(context).take(len(values) * size)
    return values


@pass_context
def _begin(context: Context, size: int) -> None:
    """Counts a body of `size` nodes, which runs now."""
    _room(context).take(size)


@pass_context
def _made(context: Context, value: Any) -> Any:
    """The value, which was made just now: text and lists counted, the elements of an iterator drawn one by one."""
    if isinstance(value, str | list | tuple | dict | range):
        _room(context).take(len(value))
    elif isinstance(value, Iterator) and not isinstance(value, LoopContext):
        return list(_drawn(context, value))
    return value


def _drawn(context: Context, values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        _room(context).take(1 + (len(value) if isinstance(value, str) else 0))
        yield value


@pass_context
def _flat(context: Context, value: Any) -> Any:
    """The list, tuple or mapping, which holds lists at most whose elements are none: of deeper ones a comparison would
    take twice as long with every level."""
    _room(context).take(len(value))
    for inner in value.values() if isinstance(value, dict) else value:
        if isinstance(inner, list | tuple | dict):
            _room(context).take(len(inner))
            if any(isinstance(i, list | tuple | dict) for i in (inner.values() if isinstance(inner, dict) else inner)):
                raise NotInTemplates("a list in a list in a list", "put them into variables of their own")
    return value


def _bounded(number: float) -> float:
    if isinstance(number, int) and abs(number) > LARGEST:
        raise NotInTemplates("a number beyond 10^18", "write a smaller one")
    return number


# ---- filters that could make much of little --------------------------------------------------------------------------


@pass_context
def _join(context: Context, values: Iterable[Any], d: str = "", attribute: str | int | None = None) -> str:
    """The values as text, `d` between each two."""
    if attribute is not None:
        get = context.environment.getitem
        values = (get(value, attribute) for value in values)
    between, found, room = _text(d), [], _room(context)
    for value in values:
        text = _text(value)
        room.take(len(text) + len(between) + 1)
        found.append(text)
    return between.join(found)


@pass_context
def _replace(context: Context, s: object, old: str, new: str, count: int = -1) -> str:
    """The text with `new` for `old`, `count` times at most."""
    text, old, new = _text(s), _text(old), _text(new)
    times = text.count(old)
    _room(context).take(len(text) + len(new) * times)
    return text.replace(old, new, count)


@pass_context
def _indent(context: Context, s: object, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    """The text with `width` blanks, or that text, before each line after the first."""
    text = _text(s)
    before = operator.index(width) if not isinstance(width, str) else len(width)
    _room(context).take(len(text) + before * (text.count("\n") + 1))
    space = width if isinstance(width, str) else " " * before
    head, *rest = text.split("\n")
    return "\n".join(chain([space + head if first else head], (space + t if t or blank else t for t in rest)))


@pass_environment
def _truncate(environment: jinja2.Environment, s: object, *args: Any, **kwargs: Any) -> Any:
    return JINJAS["truncate"](environment, _text(s), *args, **kwargs)


def _of_text(of: Any) -> Any:
    """Jinja's filter, of text alone."""

    def filtered(value: object, *args: Any, **kwargs: Any) -> Any:
        return of(_text(value), *args, **kwargs)

    return filtered


def _round(value: float, precision: int = 0) -> float:
    """The number with 0 to 15 digits behind the point."""
    return round(float(value), min(15, max(0, precision)))
