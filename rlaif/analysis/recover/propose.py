"""Statements that a model writes to explain labels (Inverse Constitutional AI, arXiv 2406.06560, section 3).

The model sees a few pairs at a time with the answer that the labels prefer. Its replies are text of no trust: they are
read line by line, cleaned, cut, and never run; what cannot be used is counted with the reason. Departures:

1. One kind of question. The paper asks once for what the preferred and once for what the other answer does.
2. No embedding: near-duplicates are found by wording, and by the verdicts under them (rlaif.analysis.recover.clusters).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from rlaif.analysis.recover.candidates import bare
from rlaif.constitution.wording import near_duplicates
from rlaif.core.records import Failure, Message, Prompt, record_seed
from rlaif.inputs.comparisons import GivenPair
from rlaif.inputs.templates import Template
from rlaif.lm.protocol import GenerateRequest, LanguageModel

GROUP = 3
"""Pairs in one question, each of another prompt."""
PER_REPLY = 3
"""Statements asked for in one question."""
MAX_QUOTED = 600
"""Characters shown of each turn and answer."""
MAX_WORDS, MIN_WORDS = 40, 4
TOKENS, TEMPERATURE = 120, 0.7

_MARK = re.compile(r"^(?:\s*(?:[-*\u2022>#]+|\(?\d{1,2}[.):]|rule \d+:)\s*)+", re.IGNORECASE)
_RESTART = re.compile(r"[*_(]*1[.):]\D")
_EMPHASIS = re.compile(r"(?<!\w)(\*{1,3}|_{1,3}|`)(?=\S)(.+?)(?<=\S)\1(?!\w)")
_ONE_PAIR = re.compile(r"\b(?:question|choice|conversation|response|answer)s? #?\d", re.IGNORECASE)
_SENTENCE_END = re.compile(r"[.!?](?=\s|$)")


@dataclass(frozen=True, slots=True)
class Proposals:
    """What came of asking: distinct statements, how many questions were asked, and what could not be used. `alike`
    statements are left out because one of the others says nearly the same, `spare` ones because there were enough."""

    statements: tuple[str, ...]
    asked: int
    failures: tuple[Failure, ...]
    alike: int = 0
    spare: int = 0


def propose(
    pairs: Sequence[GivenPair], number: int, model: LanguageModel, template: Template, *, seed: int
) -> Proposals:
    """At most `number` distinct statements that the model gives to explain the labels of the pairs."""
    requests = []
    for index, group in enumerate(_groups(pairs, ceil(number / PER_REPLY))):
        shown = tuple(_shown(pair) for pair in group)
        rendered = template.render(pairs=shown, number=PER_REPLY)
        draw = record_seed(seed, "propose", index, *(pair.comparison.id for pair in group))
        requests.append(GenerateRequest(rendered.messages, TOKENS, TEMPERATURE, draw, rendered.prefix))
    statements: list[str] = []
    failures: list[Failure] = []
    for request, reply in zip(requests, model.ask(requests), strict=True):
        if reply.failure is not None or reply.text is None:
            failures.append(reply.failure or Failure("empty", "no text"))
            continue
        whole = _whole(request.prefix, reply.text)
        found, unusable = statements_of(whole, cut=reply.finish == "length", shown=request.messages[-1].content)
        statements += found
        failures += unusable
    repeated = {later for later, _, _ in near_duplicates([bare(statement) for statement in statements])}
    kept = [statement for place, statement in enumerate(statements) if place not in repeated]
    spare = max(0, len(kept) - number)
    return Proposals(tuple(kept[:number]), len(requests), tuple(failures), len(repeated), spare)


def _whole(prefix: str, text: str) -> str:
    """The reply behind the words that it was to go on from, or alone where it begins the list, or the rule, again."""
    rest = text.lstrip()
    if _RESTART.match(rest) or (prefix and rest.startswith(_MARK.sub("", prefix))):
        return rest
    return f"{prefix} {text.lstrip(' ')}"


def statements_of(reply: str, *, cut: bool, shown: str = "") -> tuple[list[str], list[Failure]]:
    """The rules in a reply, one on each line, and why other lines are none; `cut`: the last line did not end. A line
    that only repeats something of what was `shown` is no rule, nor is one outside of a list where there is a list."""
    lines = [line for line in reply.splitlines() if line.strip()]
    marked = [_MARK.match(line) is not None for line in map(_plain, lines)]
    seen = " ".join(shown.replace("\n> ", "\n").split()).lower()
    statements: list[str] = []
    failures: list[Failure] = []
    for place, line in enumerate(lines):
        text = " ".join(_MARK.sub("", _plain(line)).split()).strip("*_\"'` ")
        rule = _sentences(text)
        if cut and place == len(lines) - 1 and not text.endswith((".", "!")):
            failures.append(Failure("truncated", f"the reply was cut off in: {text[:60]!r}"))
        elif sum(marked) > 1 and not marked[place]:
            failures.append(Failure("parse", f"stands outside of the list: {text[:60]!r}"))
        elif rule is None or text.endswith((":", "?")):
            failures.append(Failure("parse", f"no rule of {MIN_WORDS} to {MAX_WORDS} words: {text[:60]!r}"))
        elif rule.lower().rstrip(".") in seen:
            failures.append(Failure("parse", f"repeats what it was shown: {text[:60]!r}"))
        elif _ONE_PAIR.search(rule):
            failures.append(Failure("parse", f"speaks of one of the pairs: {text[:60]!r}"))
        else:
            statements.append(rule)
    return statements, failures


def _plain(line: str) -> str:
    """The line without Markdown's emphasis: marks in pairs, around whole words."""
    return _EMPHASIS.sub(r"\2", _EMPHASIS.sub(r"\2", line))


def _sentences(text: str) -> str | None:
    """As many whole sentences at the beginning as MAX_WORDS hold, with a full stop; None where that is no rule."""
    if not text.isprintable():
        return None
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    if not ends or ends[-1] < len(text):
        ends.append(len(text))
    fitting = [text[:end] for end in ends if MIN_WORDS <= len(text[:end].split()) <= MAX_WORDS]
    if not fitting:
        return None
    rule = fitting[-1]
    return f"{rule[0].upper()}{rule[1:]}{'' if rule[-1] in '.!?' else '.'}"


def _groups(pairs: Sequence[GivenPair], number: int) -> list[list[GivenPair]]:
    """At most `number` groups of pairs with clear labels, of different prompts as far as there are enough.

    Each prompt gives its clearest pair first, and its other ones only when every prompt had its turn.
    """
    by_prompt: dict[str, list[GivenPair]] = {}
    for pair in sorted(pairs, key=lambda pair: (-abs((pair.prob_a or 0.0) - 0.5), pair.comparison.id)):
        by_prompt.setdefault(pair.group, []).append(pair)
    rounds = max((len(group) for group in by_prompt.values()), default=0)
    ordered = [group[turn] for turn in range(rounds) for _, group in sorted(by_prompt.items()) if turn < len(group)]
    size = min(GROUP, len(by_prompt)) or 1
    return [ordered[start : start + size] for start in range(0, len(ordered), size)][:number]


def _shown(pair: GivenPair) -> tuple[Prompt, str, str]:
    """(prompt, preferred answer, other answer), each text cut."""
    a, b = pair.comparison.a.text, pair.comparison.b.text
    preferred, other = (a, b) if pair.prob_a is not None and pair.prob_a > 0.5 else (b, a)
    messages = tuple(Message(m.role, _cut(m.content)) for m in pair.comparison.prompt.messages)
    return Prompt(messages), _cut(preferred), _cut(other)


def _cut(text: str) -> str:
    return text if len(text) <= MAX_QUOTED else f"{text[:MAX_QUOTED]} ..."
