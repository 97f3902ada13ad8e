"""Templates: Jinja files that render to messages, never to one string that is parsed afterwards.

`{% message "user" %}...{% endmessage %}` collects one message while the template runs, so no text that comes in as a
value can open a message, end one, or be rendered a second time. The roles system, user and assistant exist; a last
assistant message is the prefix that the model's turn begins with. Inside a message, two filters make delimiters that
their content cannot forge, because every line of it begins with "> ":

    {{ response | quote }}      each line behind "> "
    {{ prompt | dialogue }}     a lone user turn quoted; several turns as Human: / Assistant: with each turn quoted

A template is checked when it is loaded: it parses, uses only the variables that its stage provides, holds no text
outside messages, and renders with sample values. What it may do, and how much, says `rlaif.inputs.template_language`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_args

import jinja2
from jinja2 import meta, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Context, Macro

from rlaif.core.errors import TemplateError, near
from rlaif.core.files import read_text
from rlaif.core.records import Contrast, ContrastExample, Message, Principle, Prompt, Role, content_id
from rlaif.core.shipped import shipped
from rlaif.inputs.template_language import LONGEST, Environment, NotInTemplates, room_for


@dataclass(frozen=True, slots=True)
class TemplateKind:
    """What a template is for: its name, the variables that it may use and their types, and the file that stands for it
    where a folder has none of its own (None: the shipped one of that name)."""

    name: str
    variables: Mapping[str, type]
    file: Path | None = None


CRITIQUE = TemplateKind("critique", {"principle": Principle, "prompt": Prompt, "response": str, "few_shots": int})
REVISION = TemplateKind(
    "revision", {"principle": Principle, "prompt": Prompt, "response": str, "critique": str, "few_shots": int}
)
PROPOSE = TemplateKind("propose", {"pairs": tuple, "number": int})
"""Those of the judge are in rlaif.judge.methods."""

DEEP = "loops, conditions, brackets or macros stand too deep in one another"
_SINK = "messages so far"  # key of the list being filled; not an identifier, so no template can name it
_ROLES: tuple[str, ...] = get_args(Role)
_SPEAKERS = {"system": "System", "user": "Human", "assistant": "Assistant"}


@dataclass(frozen=True, slots=True)
class ShownPrinciple:
    """What a template may show of a principle: the fields that `Principle.hash` knows, since a verdict is kept while
    these are the same. Anything else is undefined there."""

    statement: str
    critique: str | None
    revision: str | None
    comparison: str | None
    contrast: Contrast | None


def _shown(principle: Principle) -> ShownPrinciple:
    return ShownPrinciple(
        principle.statement, principle.critique, principle.revision, principle.comparison, principle.contrast
    )


@dataclass(frozen=True, slots=True)
class Rendered:
    """The messages of a request and what the assistant's turn begins with ("" = nothing)."""

    messages: tuple[Message, ...]
    prefix: str


class Template:
    """A checked template. `hash` changes with its text and goes on every row that came of it."""

    def __init__(self, kind: TemplateKind, text: str, *, where: str | None = None) -> None:
        """`kind` says which variables are there, `where` (default: its name) is what errors point at."""
        self.kind, self.text = kind, text
        self.hash = content_id("template", text)
        self._where = where or f"{kind.name}.jinja"
        self._compiled = _compile(kind, text, self._where)
        for sample in _samples(kind):
            self._check(self.render(**sample))

    def render(self, **values: object) -> Rendered:
        """The messages for these values. The values must be those of its kind, of the types named there."""
        expected = self.kind.variables
        wrong = [n for n in expected.keys() | values.keys() if n not in expected or n not in values]
        wrong += [n for n, kind in expected.items() if n in values and not isinstance(values[n], kind)]
        if wrong:
            raise TypeError(
                f"template {self.kind.name}: {', '.join(sorted(wrong))} missing, unknown or of the wrong type"
            )
        collected: list[Message] = []
        try:
            shown = {n: _shown(v) if isinstance(v, Principle) else v for n, v in values.items()}
            outside = self._compiled.render({_SINK: collected, **room_for(shown.values()), **shown})
        except Exception as problem:  # a template is a user's program: whatever it raises is a mistake in it
            line = _line_of(problem, self._where)
            where = self._where if line is None else f"{self._where}:{line}"
            what = DEEP if isinstance(problem, RecursionError) else str(problem) or type(problem).__name__
            remedy = problem.remedy if isinstance(problem, NotInTemplates) else _offer(self.kind)
            raise TemplateError(what, where=where, remedy=remedy) from None
        if outside.strip():
            raise TemplateError(f"writes text outside of any message: {outside.strip()[:60]!r}", where=self._where)
        if collected and collected[-1].role == "assistant":
            return Rendered(tuple(collected[:-1]), collected[-1].content)
        return Rendered(tuple(collected), "")

    def _check(self, rendered: Rendered) -> None:
        if not rendered.messages or rendered.messages[-1].role != "user":
            raise TemplateError(
                "does not end with a user message (an assistant message may follow as the prefix)",
                where=self._where,
                remedy='add {% message "user" %}...{% endmessage %}',
            )


def load_template(kind: TemplateKind, folder: Path | None = None) -> Template:
    """The template of that kind: `folder`/name.jinja if there is one, else the kind's own file or the shipped one."""
    own = None if folder is None else folder / f"{kind.name}.jinja"
    if own is not None and own.exists():
        return Template(kind, read_text(own, TemplateError), where=str(own))
    if kind.file is not None:
        return Template(kind, read_text(kind.file, TemplateError), where=str(kind.file))
    return _shipped_template(kind.name, tuple(kind.variables.items()))


def load_templates(kinds: Sequence[TemplateKind], folder: Path | None = None) -> dict[str, Template]:
    """Name -> template of each kind.

    Raises TemplateError for a file in the folder that is none of them: a misspelt one would be ignored in silence.
    """
    names = [kind.name for kind in kinds]
    for file in sorted(folder.glob("*.jinja")) if folder is not None else []:
        if file.stem not in names:
            raise TemplateError(
                f"no stage uses a template {file.stem!r}{near(file.stem, names)}",
                where=str(file),
                remedy=f"there are: {', '.join(names)}",
            )
    return {kind.name: load_template(kind, folder) for kind in kinds}


@cache
def _shipped_template(name: str, variables: tuple[tuple[str, type], ...]) -> Template:
    path = shipped("prompts/templates")[name]
    return Template(TemplateKind(name, dict(variables)), read_text(path, TemplateError), where=f"{name}.jinja")


class _MessageExtension(Extension):
    """`{% message role %}body{% endmessage %}`; the role is any expression."""

    tags = {"message"}  # noqa: RUF012 (declared so by jinja2)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        role = parser.parse_expression()
        body = parser.parse_statements(("name:endmessage",), drop_needle=True)
        call = self.call_method("_collect", [role, nodes.ContextReference()], lineno=line)
        return nodes.CallBlock(call, [], [], body).set_lineno(line)

    def _collect(self, role: object, context: Context, caller: Macro) -> str:
        text = str(caller()).strip()
        if role not in _ROLES:
            raise jinja2.TemplateRuntimeError(f"role {role!r} is none of {', '.join(_ROLES)}")
        if text or role != "system":  # an empty system message says nothing and confuses some chat formats
            context.parent[_SINK].append(Message(role, text))  # type: ignore[arg-type]
        return ""


def _quote(text: str) -> str:
    """The text with "> " before every line, by any line break that a reader or tokenizer may take for one."""
    return "\n".join(f"> {line}" for line in text.splitlines() or [""])


def _dialogue(prompt: Prompt | tuple[Message, ...]) -> str:
    """The conversation as text: one user turn is quoted as it is, several stand under the names of their speakers."""
    messages = prompt.messages if isinstance(prompt, Prompt) else prompt
    if len(messages) == 1 and messages[0].role == "user":
        return _quote(messages[0].content)
    return "\n".join(f"{_SPEAKERS[m.role]}:\n{_quote(m.content)}" for m in messages)


@cache
def _environment() -> Environment:
    return Environment({"quote": _quote, "dialogue": _dialogue}, [_MessageExtension])


def _compile(kind: TemplateKind, text: str, where: str) -> jinja2.Template:
    """The compiled template, after the checks that need no values."""
    environment = _environment()
    if len(text) > LONGEST:
        what = f"{len(text):,} characters is more than {LONGEST:,}"
        raise TemplateError(what, where=where, remedy="leave the data to the values")
    try:
        tree = environment.parse(text)
        unknown = meta.find_undeclared_variables(tree) - kind.variables.keys() - environment.globals.keys()
        for node in sorted((n for n in tree.find_all(nodes.Name) if n.name in unknown), key=lambda n: n.lineno):
            hint = near(node.name, kind.variables)
            raise TemplateError(
                f"there is no variable {node.name!r} here{hint}", where=f"{where}:{node.lineno}", remedy=_offer(kind)
            )
        for line, problem in _misplaced(tree):
            raise TemplateError(
                problem, where=f"{where}:{line}", remedy='write {% message "user" %}...{% endmessage %} around text'
            )
        code = environment.compile(environment.counted(tree), name=where, filename=where)
        return jinja2.Template.from_code(environment, code, environment.make_globals(None))
    except jinja2.TemplateSyntaxError as problem:
        raise TemplateError(
            problem.message or "does not parse", where=f"{where}:{problem.lineno}", remedy=_offer(kind)
        ) from None
    except (RecursionError, MemoryError, SyntaxError):  # of Jinja's parser and Python's
        raise TemplateError(DEEP, where=where, remedy="take it apart with {% set ... %}") from None
    except (ValueError, OverflowError) as problem:  # a number of 5,000 digits
        raise TemplateError(str(problem), where=where, remedy=_offer(kind)) from None


def _is_message(node: nodes.Node) -> bool:
    return isinstance(node, nodes.CallBlock) and isinstance(node.call.node, nodes.ExtensionAttribute)


def _misplaced(tree: nodes.Node) -> Iterator[tuple[int, str]]:
    """(line, problem) of everything that the message blocks do not allow."""
    for node in tree.iter_child_nodes():
        if isinstance(node, nodes.Include | nodes.Import | nodes.FromImport | nodes.Extends):
            yield node.lineno, "a template is one file: no include, import or extends"
        elif _is_message(node) or isinstance(node, nodes.Macro):
            inner = [n for n in node.find_all(nodes.CallBlock) if _is_message(n)]
            if inner:
                yield inner[0].lineno, "a message inside of a message or macro"
            role = node.call.args[0] if isinstance(node, nodes.CallBlock) else None
            if isinstance(role, nodes.Const) and role.value not in _ROLES:
                yield node.lineno, f"role {role.value!r} is none of {', '.join(_ROLES)}"
        elif isinstance(node, nodes.Output):
            for part in node.nodes:
                if not isinstance(part, nodes.TemplateData):
                    yield part.lineno, "{{ ... }} outside of any message"
                elif part.data.strip():
                    yield part.lineno, f"text outside of any message: {part.data.strip().splitlines()[0][:60]!r}"
        elif not isinstance(node, nodes.AssignBlock):
            yield from _misplaced(node)


def _line_of(problem: BaseException, filename: str) -> int | None:
    """The template's line where the exception arose; jinja2 rewrites tracebacks so that they name it."""
    line, trace = None, problem.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == filename:
            line = trace.tb_lineno
        trace = trace.tb_next
    return line


def _samples(kind: TemplateKind) -> Iterator[dict[str, Any]]:
    """Two sets of values to try a template with: everything given, and only what must be there."""
    question, answer = Message("user", "question"), Message("assistant", "answer")
    full = Principle(
        "sample", "statement", critique="critique", revision="revision", comparison="comparison",
        contrast=Contrast("followed", "violated", (ContrastExample("question", "followed", "violated"),) * 2),
    )  # fmt: skip
    for principle, turns, few_shots in (
        (full, (question, answer, question), 3),
        (Principle("sample", "statement"), (question,), 0),
    ):
        values: dict[str, Any] = {
            "principle": principle, "prompt": Prompt(turns), "conversation": turns, "few_shots": few_shots,
            "examples": turns[:-1], "pairs": ((Prompt(turns), "preferred", "other"),), "number": 3,
            "remind": few_shots > 0, "rationale": "rationale" if few_shots else "",  # "" is how it is asked for
        }  # fmt: skip
        yield {
            name: values[name] if name in values else "text" if known is str else known()
            for name, known in kind.variables.items()
        }


def _offer(kind: TemplateKind) -> str:
    filters = ", ".join(_environment().offered)
    return f"{kind.name}.jinja may use: {', '.join(kind.variables)}; filters: {filters}; blocks: message"
