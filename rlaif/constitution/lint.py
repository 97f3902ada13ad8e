"""The linter: what is wrong with a constitution or likely to mislead a judge, under stable codes.

C0xx: it does not load. C1xx: something is missing or never used. C2xx: wording. C3xx: contrast pairs and tests.
Only what is certain is an error; the rest are rules of thumb, and a note is no reason to change anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from rlaif.constitution.compose import ComposedConstitution, ComposedPrinciple, compose
from rlaif.constitution.contrast_pair import is_made, made_contrast
from rlaif.constitution.format import TestEntry
from rlaif.constitution.problems import FileProblems, default_remedy
from rlaif.constitution.wording import asks_for_worse, double_negation, near_duplicates, negation, negations
from rlaif.core.errors import ConstitutionError

Severity = Literal["error", "warning", "note"]
Keys = tuple[str | int, ...]
Found = tuple[str, Keys, str]
"""Code, keys of the field within its principle, message."""

MAX_WORDS = 60
"""Of a statement. The judge reads it in every question, and two rules in one cannot be weighed apart."""
MIN_SHARE = 0.001
"""Of the largest weight: a smaller one is drawn less than once in a thousand times."""
PAIR_RATIO, PAIR_WORDS = 1.3, 4
"""System prompts differ much in length: by more than this factor and by at least so many words."""
ANSWER_RATIO, ANSWER_CHARACTERS = 1.5, 40
"""Answers of an example differ much in length: by more than this factor and by at least so many characters."""
MIN_TESTS = 3
"""Fewer tests of a principle all have the shorter answer as the better one too often by chance."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What a code stands for."""

    severity: Severity
    title: str
    remedy: str


RULES = {
    "C001": Rule("error", "not readable: no file, no UTF-8, no YAML, an alias, a key twice", ""),
    "C002": Rule("error", "a field is unknown, missing, empty or of the wrong kind", ""),
    "C003": Rule("error", "an id is taken", ""),
    "C004": Rule("error", "an include, disable or override does not work", ""),
    "C005": Rule("error", "two texts that must differ are the same, or every weight is 0", ""),
    "C101": Rule("warning", "no contrast pair", "add one, or let rlaif constitution draft make it from the statement"),
    "C102": Rule("note", "no own wordings", "add them if the general wording of the templates does not fit"),
    "C103": Rule("warning", "no tests", "add at least two tests: prompt, better, worse"),
    "C104": Rule("note", "weight 0", "give it a weight, remove it, or disable it if it is included"),
    "C105": Rule("warning", "weight too small to matter", "raise it, or set it to 0 to say so"),
    "C106": Rule("note", "all weights are the same number", "weights are relative: leave them out"),
    "C201": Rule("warning", "near-duplicate statements", "merge them or set them apart: a doubled rule counts twice"),
    "C202": Rule("warning", "statements alike but for a negation", "say when which of them holds, or drop one"),
    "C203": Rule("warning", "double negation", "say what to do instead; small models miss one of two negations"),
    "C204": Rule("warning", "negation in the comparison", "ask for what the better answer does or is"),
    "C205": Rule("warning", "asks for the worse answer", "ask for the better one, as in: less harmful"),
    "C206": Rule("warning", "overlong statement", "split it into principles of one or two sentences each"),
    "C207": Rule("note", "braces that look like a template", "none if they are meant: texts are taken literally"),
    "C301": Rule("warning", "contrast pair of different length", "make both equally long: it is not about length"),
    "C302": Rule("warning", "contrast pair that does not start alike", 'begin both with the same words, such as "You"'),
    "C303": Rule("warning", "example answers of different length", "make both about equally long"),
    "C304": Rule("warning", "length decides the tests", "vary it, or a judge that counts words passes them all"),
    "C305": Rule("warning", "a test repeats a contrast example", "take another prompt: the judge is shown this one"),
    "C306": Rule("warning", "contrast pair that only wraps a rule", "name the behaviour, as in: You name every source"),
}  # fmt: skip
"""Code -> rule. A code keeps its meaning for ever; a new rule takes a new one."""


@dataclass(frozen=True, slots=True)
class LintFinding:
    """One finding: where ("file:line"), in which principle, what, and what to write instead."""

    code: str
    severity: Severity
    where: str
    principle: str | None
    message: str
    remedy: str

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def lint(name_or_path: str | Path) -> list[LintFinding]:
    """Every finding about a constitution with all it includes, by file and line; a single kind, C0xx, if it does not
    load."""
    try:
        composed = compose(name_or_path)
    except FileProblems as error:
        return [
            LintFinding(p.code, "error", f"{error.path}:{p.line}", p.principle, p.text, p.remedy or default_remedy())
            for p in error.problems
        ]
    except ConstitutionError as error:
        where = error.where or str(name_or_path)
        return [LintFinding("C001", "error", where, None, error.what, error.remedy or default_remedy())]
    found = [_finding(written, part) for written in composed.principles for part in _principle(written)]
    found += [_finding(composed.principles[number], part) for number, part in _together(composed)]
    return sorted(found, key=_position)


def _finding(written: ComposedPrinciple, found: Found) -> LintFinding:
    code, keys, message = found
    rule = RULES[code]
    return LintFinding(code, rule.severity, written.place(*keys), written.entry.id, message, rule.remedy)


def _position(finding: LintFinding) -> tuple[str, int, str]:
    path, _, line = finding.where.rpartition(":")
    return path, int(line), finding.code


# --- one principle ----------------------------------------------------------------------------------------------------


def _principle(written: ComposedPrinciple) -> Iterator[Found]:
    yield from _missing(written)
    yield from _wording(written)
    yield from _contrast(written)
    yield from _tests(written)


def _missing(written: ComposedPrinciple) -> Iterator[Found]:
    entry = written.entry
    if entry.contrast is None:
        yield "C101", (), "has no contrast pair, so judge.method: contrast, the default, refuses this constitution"
    own = [name for name in ("critique", "revision", "comparison") if getattr(entry, name) is None]
    if own:
        yield "C102", (), f"has no own wording for {', '.join(own)}; the general one is used"
    if not entry.tests:
        yield "C103", (), "has no tests, so nobody can tell whether a judge understands it"
    if entry.weight == 0:
        yield "C104", ("weight",), "has weight 0: it is never drawn and never judged"


def _wording(written: ComposedPrinciple) -> Iterator[Found]:
    entry = written.entry
    for name in ("statement", "critique", "revision", "comparison"):
        words = double_negation(getattr(entry, name) or "")
        if words is not None:
            yield "C203", (name,), f'{name}: double negation "{words}"'
    question = entry.comparison or ""
    if (word := negation(question)) is not None:
        yield "C204", ("comparison",), f'comparison: "{word}" turns the question round'
    elif (words := asks_for_worse(question)) is not None:
        yield (
            "C205",
            ("comparison",),
            f'comparison: "{words}" may ask for the worse answer, and labels would come out reversed',
        )
    if (words := asks_for_worse(entry.statement)) is not None:
        message = f'statement: "{words}" may ask for the worse answer, and labels would come out reversed'
        yield "C205", ("statement",), message
    length = len(entry.statement.split())
    if length > MAX_WORDS:
        yield "C206", ("statement",), f"statement: {length} words, more than {MAX_WORDS}"
    for keys, text in _texts(entry.model_dump(exclude={"id", "priority", "weight", "override"})):
        braces = next((mark for mark in ("{{", "{%", "{#") if mark in text), None)
        if braces is not None:
            name = ".".join(map(str, keys))
            yield "C207", keys, f'{name}: "{braces}" is shown to the judge as it stands, nothing is filled in'


def _texts(value: Any, keys: Keys = ()) -> Iterator[tuple[Keys, str]]:
    """Every text inside nested lists and mappings, with its keys."""
    if isinstance(value, str):
        yield keys, value
    elif isinstance(value, dict | list):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _texts(part, (*keys, key))


def _contrast(written: ComposedPrinciple) -> Iterator[Found]:
    pair = written.entry.contrast
    if pair is None:
        return
    if is_made(pair.followed, pair.violated):
        whose = "" if pair.followed == made_contrast(written.entry.statement).followed else ", and not the statement's"
        yield "C306", ("contrast",), f"contrast: only wraps a rule{whose}; a small judge learns more from a behaviour"
    followed, violated = pair.followed.split(), pair.violated.split()
    if _differ(len(followed), len(violated), PAIR_RATIO, PAIR_WORDS):
        yield "C301", ("contrast",), f"contrast: followed has {len(followed)} words, violated {len(violated)}"
    if followed[0].lower() != violated[0].lower():
        yield "C302", ("contrast",), f"contrast: followed begins with {followed[0]!r}, violated with {violated[0]!r}"
    for number, example in enumerate(pair.examples):
        lengths = len(example.followed), len(example.violated)
        if _differ(*lengths, ANSWER_RATIO, ANSWER_CHARACTERS):
            text = f"contrast.examples.{number}: followed has {lengths[0]} characters, violated {lengths[1]}"
            yield "C303", ("contrast", "examples", number), text


def _differ(a: int, b: int, ratio: float, least: int) -> bool:
    return abs(a - b) >= least and max(a, b) > ratio * min(a, b)


def _tests(written: ComposedPrinciple) -> Iterator[Found]:
    entry = written.entry
    if len(entry.tests) >= MIN_TESTS and (side := _always(entry.tests)) is not None:
        yield "C304", ("tests",), f"tests: better is always the {side} answer"
    shown = set() if entry.contrast is None else {example.prompt for example in entry.contrast.examples}
    for number, test in enumerate(entry.tests):
        if test.prompt in shown:
            yield "C305", ("tests", number), f"tests.{number}: the prompt is also that of a contrast example"


def _always(tests: Sequence[TestEntry]) -> str | None:
    """ "shorter" or "longer" if the better answer is that in every test."""
    differences = [len(test.better) - len(test.worse) for test in tests]
    if all(difference < 0 for difference in differences):
        return "shorter"
    return "longer" if all(difference > 0 for difference in differences) else None


# --- principles together ----------------------------------------------------------------------------------------------


def _together(composed: ComposedConstitution) -> Iterator[tuple[int, Found]]:
    """(number of the principle, finding) for what only several principles show."""
    entries = [written.entry for written in composed.principles]
    weights = [entry.weight for entry in entries]
    largest = max(weights)
    for number, weight in enumerate(weights):
        if 0 < weight < MIN_SHARE * largest:
            yield number, ("C105", ("weight",), f"weight {weight:g} beside {largest:g} never matters")
    if len(set(weights)) == 1 and weights[0] != 1:
        first = next(n for n, written in enumerate(composed.principles) if "weight" in written.sources)
        yield first, ("C106", ("weight",), f"every weight is {weights[0]:g}, which is the same as none")
    for later, earlier, likeness in near_duplicates([entry.statement for entry in entries]):
        other = entries[earlier]
        pair = f"{likeness:.0%} of the word pairs of principle {other.id!r} ({composed.principles[earlier].place()})"
        if negations(entries[later].statement) % 2 == negations(other.statement) % 2:
            yield later, ("C201", ("statement",), f"statement: shares {pair}")
        else:
            yield later, ("C202", ("statement",), f"statement: shares {pair}, but one of the two is negated")
    tests = [test for entry in entries for test in entry.tests]
    few = max(len(entry.tests) for entry in entries) < MIN_TESTS <= len(tests)  # else each principle is looked at alone
    if few and (side := _always(tests)) is not None:
        first = next(n for n, entry in enumerate(entries) if entry.tests)
        yield (
            first,
            ("C304", ("tests",), f"tests: better is the {side} answer in all {len(tests)} tests of the constitution"),
        )
