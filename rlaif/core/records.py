"""Every record that crosses a stage boundary: frozen, typed, with an id that is a short hash of its content.

Joins are by id, never by position. `None` stands for "not known" and is tested with `is None`; a judge that
cannot answer leaves `None` and a `Failure` that says why.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from typing import Annotated, Any, ClassVar, Literal, TypeVar

Role = Literal["system", "user", "assistant"]
FailureKind = Literal[
    "parse",
    "off_menu",
    "refused",
    "truncated",
    "thinking_cut",
    "backend",
    "missing_logprobs",
    "context_overflow",
    "empty",
    "abstained",
    "disagreed",
    "unbalanced",
]
LEFT_OUT: frozenset[FailureKind] = frozenset({"abstained", "disagreed", "unbalanced"})
"""Kinds of a label that is missing by choice: nothing failed, and the pair is not to be learnt from."""
FinishReason = Literal["stop", "length"]
AnswerSource = Literal["policy", "contrast", "given"]
"""How the two answers of a label came about: both sampled alike, one under each context of a principle, or given in a
file of the user's own labels."""
Order = Literal["ab", "ba", "none"]
"""Which response the judge saw first; "none" where the method shows one response at a time."""

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Within:
    """What a field may hold, seen to wherever its record is read: a number from `low` to `high`, and never NaN."""

    low: float = -math.inf
    high: float = math.inf

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], Any]) -> Any:
        from pydantic_core.core_schema import no_info_before_validator_function

        return no_info_before_validator_function(self._checked, handler(source))

    def _checked(self, value: object) -> object:
        from pydantic_core import PydanticCustomError

        if isinstance(value, int | float) and not isinstance(value, bool) and self.low <= value <= self.high:
            return value
        ends = [f"from {self.low:g}"] * math.isfinite(self.low) + [f"to {self.high:g}"] * math.isfinite(self.high)
        raise PydanticCustomError("range", " ".join(["must be a number", *ends]))


@dataclass(frozen=True, slots=True)
class Sound:
    """What else a field must be, seen to wherever its record is read."""

    holds: Callable[[Any], bool]
    must: str

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], Any]) -> Any:
        from pydantic_core.core_schema import no_info_after_validator_function

        return no_info_after_validator_function(self._checked, handler(source))

    def _checked(self, value: object) -> object:
        from pydantic_core import PydanticCustomError

        if self.holds(value):
            return value
        raise PydanticCustomError("sound", f"must {self.must}")


def _is_object(text: str) -> bool:
    """Whether the text is a JSON object, or nothing."""
    try:
        return not text or isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


Number = Annotated[float, Within()]
Probability = Annotated[float, Within(0, 1)]
Count = Annotated[int, Within(0)]


def content_id(*parts: object) -> str:
    """16 hex characters of the SHA-256 of the parts as canonical JSON: equal content, equal id, on any machine."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=_plain)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def record_seed(seed: int, stage: str, *parts: object) -> int:
    """A 63-bit seed from (run seed, stage, record): order, batching and resume cannot change what a record draws."""
    return int(content_id(seed, stage, *parts), 16) >> 1


def to_json(record: object) -> dict[str, Any]:
    """The record as a plain dictionary, ready for one JSONL line."""
    return asdict(record)  # type: ignore[call-overload, no-any-return]


def from_json(kind: type[R], data: object) -> R:
    """The record in `data`, checked field by field; raises `ValueError` naming the field that is wrong."""
    value: R = _adapter(kind).validate_python(data)
    return value


_adapters: dict[Any, Any] = {}


def _adapter(kind: Any) -> Any:
    from pydantic import TypeAdapter

    if kind not in _adapters:
        _adapters[kind] = TypeAdapter(kind)
    return _adapters[kind]


def _plain(value: object) -> object:
    if isinstance(value, _Record):
        return {name: part for name, part in _fields_of(value) if part or name not in value._unless_empty}
    if hasattr(value, "__dataclass_fields__"):
        return dict(_fields_of(value))
    raise TypeError(f"no canonical JSON for {type(value).__name__}")


def _fields_of(record: Any) -> Iterator[tuple[str, Any]]:
    """(name, value) of each field; records in it stay what they are."""
    return ((field.name, getattr(record, field.name)) for field in fields(record))


class _Record:
    """Fills `id` from the fields named in `_identity` when a record is made without one. Those in `_unless_empty` are
    left out of every hash while they are empty: they came later, and ids stay what they were."""

    __slots__ = ()
    _identity: ClassVar[tuple[str, ...]] = ()
    _unless_empty: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        if not self.id:  # type: ignore[attr-defined]
            parts = [getattr(self, name) for name in self._identity]
            object.__setattr__(self, "id", content_id(type(self).__name__, *parts))


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an answer is missing: a kind to count by, and a sentence to read."""

    kind: FailureKind
    reason: str


@dataclass(frozen=True, slots=True)
class Message:
    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class ContrastExample:
    """A request, answered as the principle wants it and as it does not."""

    prompt: str
    followed: str
    violated: str


@dataclass(frozen=True, slots=True)
class Contrast:
    """Two contexts for the `contrast` method: an assistant that follows the principle, one that violates it.

    `followed` and `violated` are system prompts; the examples are shown as chat turns after them. Small models learn
    far more from the examples than from the system prompts.
    """

    followed: str
    violated: str
    examples: tuple[ContrastExample, ...] = ()


@dataclass(frozen=True, slots=True)
class PrincipleTest:
    """A unit test of a principle: under it, `better` should be preferred to `worse`."""

    prompt: str
    better: str
    worse: str


@dataclass(frozen=True, slots=True)
class Principle:
    """One rule in plain language. The own wordings are optional: templates fall back to the statement."""

    id: str
    statement: str
    rationale: str = ""
    priority: int = 1
    weight: float = 1.0
    tags: tuple[str, ...] = ()
    critique: str | None = None
    revision: str | None = None
    comparison: str | None = None
    contrast: Contrast | None = None
    tests: tuple[PrincipleTest, ...] = ()

    @property
    def hash(self) -> str:
        """Changes with any text a judge may see; not with weight, tags, rationale or tests."""
        return content_id(self.statement, self.critique, self.revision, self.comparison, self.contrast)


@dataclass(frozen=True, slots=True)
class Constitution:
    """A named, versioned set of principles."""

    name: str
    version: str
    description: str
    principles: tuple[Principle, ...]

    @property
    def hash(self) -> str:
        """Changes with any text a judge may see, any weight or tier, and any tag: slices choose principles by tag."""
        return content_id([(p.id, p.hash, p.weight, p.priority, sorted(p.tags)) for p in self.principles])

    def draw(self, seed: int) -> Principle:
        """One principle, with probability proportional to its weight, decided by `seed` alone."""
        return self.draw_subset(seed, 1)[0]

    def draw_subset(self, seed: int, size: int) -> tuple[Principle, ...]:
        """`size` different principles (all with a weight, if there are no more), drawn by weight, in their order.

        Each principle gets an exponential time with its weight as the rate, from the seed and its id alone, and the
        earliest are drawn (Efraimidis and Spirakis, Inf. Process. Lett. 97 (2006) 181). So an edit disturbs little:
        wordings, order and other principles do not move a principle's time, and a new one of 10 takes a tenth.
        """
        times = {
            p.id: -math.log((record_seed(seed, "draw", p.id) + 0.5) / (1 << 63)) / p.weight
            for p in self.principles
            if p.weight > 0
        }
        drawn = set(sorted(times, key=lambda name: times[name])[:size])
        return tuple(p for p in self.principles if p.id in drawn)


@dataclass(frozen=True, slots=True)
class Prompt(_Record):
    """A user request; `messages` ends with the user's turn. `slice` is the config's name for the set it is from.

    `columns` is a JSON object of what its file says of it in columns of its own, "" for none. It is text, so that files
    of prompts with other columns are of one type."""

    messages: Annotated[tuple[Message, ...], Sound(bool, "hold a turn")]
    slice: str = ""
    tags: tuple[str, ...] = ()
    source: str = ""
    id: str = ""
    columns: Annotated[str, Sound(_is_object, "be a JSON object")] = ""
    _identity: ClassVar[tuple[str, ...]] = ("messages",)
    _unless_empty: ClassVar[tuple[str, ...]] = ("columns",)

    @classmethod
    def of_text(cls, text: str, slice: str = "") -> Prompt:
        """The prompt of one user turn."""
        return cls((Message("user", text),), slice=slice)

    @property
    def text(self) -> str:
        """The last user turn."""
        return self.messages[-1].content

    @property
    def own_columns(self) -> dict[str, Any]:
        """Column -> value of the columns that its file has beside ours, such as an id or a reference answer."""
        found: dict[str, Any] = json.loads(self.columns) if self.columns else {}
        return found


@dataclass(frozen=True, slots=True)
class Response(_Record):
    """One answer to a prompt. `finish` is "stop" when the model ended it itself, "length" when it was cut off."""

    prompt_id: str
    text: str
    model: str
    seed: int
    temperature: Annotated[float, Within(0)]
    finish: FinishReason
    n_tokens: Count
    id: str = ""
    _identity: ClassVar[tuple[str, ...]] = ("prompt_id", "text", "model", "seed", "temperature")


@dataclass(frozen=True, slots=True)
class FailedAnswer:
    """An answer that the model could not give, kept so that it is counted and not asked for again."""

    prompt_id: str
    model: str
    seed: int
    failure: Failure


@dataclass(frozen=True, slots=True)
class Comparison(_Record):
    """Two responses to the same prompt, not yet judged."""

    prompt: Prompt
    a: Response
    b: Response
    id: str = ""
    _identity: ClassVar[tuple[str, ...]] = ("prompt", "a", "b")

    @classmethod
    def of_texts(cls, prompt: Prompt | str, a: str, b: str) -> Comparison:
        """The comparison of two answers that come from anywhere; their model is called "given"."""
        asked = Prompt.of_text(prompt) if isinstance(prompt, str) else prompt
        first, second = (Response(asked.id, text, "given", 0, 0.0, "stop", 0) for text in (a, b))
        return cls(asked, first, second)

    def swap(self) -> Comparison:
        """The same two responses in the other order (with an id of its own)."""
        return replace(self, a=self.b, b=self.a, id="")


@dataclass(frozen=True, slots=True)
class Verdict(_Record):
    """One judge call on one comparison under one principle.

    `prob_first` is P(the response shown first is better), 0..1, or None with a `failure`. With order "none" the
    first is A. `margin` is the raw evidence for the one shown first (for letters a log-odds and for `contrast` a
    difference of mean token log-ratios, both in nats; for `rating` one of mean ratings in points), before any scale or
    clamp. `member` is the name in the panel, "" for the run's own judge."""

    comparison_id: str
    principle_id: str
    principle_hash: str
    method: str
    order: Order
    judge: str
    prob_first: Probability | None
    margin: Number | None = None
    rationale: str = ""
    raw: str = ""
    failure: Failure | None = None
    member: str = ""
    id: str = ""
    _identity: ClassVar[tuple[str, ...]] = ("comparison_id", "principle_hash", "method", "order", "judge", "member")

    @property
    def prob_a(self) -> float | None:
        """P(A is better), whatever order the judge saw."""
        if self.prob_first is None:
            return None
        return 1.0 - self.prob_first if self.order == "ba" else self.prob_first


@dataclass(frozen=True, slots=True)
class PreferenceLabel(_Record):
    """A judged comparison: soft `prob_a`, or None with the reason. `consistency` is 1 - |p(ab) - p(ba)|, before any
    clamp, averaged over principles, None where one response is seen at a time. `judge_card`: the card's id, if any.
    `principle_id`: the principle whose contexts made the answers, where `answers` is "contrast"; else ""."""

    comparison: Comparison
    prob_a: Probability | None
    verdicts: tuple[Verdict, ...]
    consistency: Probability | None = None
    failure: Failure | None = None
    constitution_hash: str = ""
    judge_card: str = ""
    answers: AnswerSource = "policy"
    principle_id: str = ""
    id: str = ""
    _identity: ClassVar[tuple[str, ...]] = ("comparison", "verdicts", "constitution_hash")


@dataclass(frozen=True, slots=True)
class Critique:
    """What the model found wrong with an answer under one principle. `no_change`: it found nothing."""

    text: str
    no_change: bool
    seed: int
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class Revision:
    """A rewritten answer and what the gate said: `prob_better` = P(revision better than the answer before it)."""

    response: Response | None
    prob_better: Probability | None
    accepted: bool
    verdicts: tuple[Verdict, ...] = ()
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class RevisionRound:
    """One round under one principle, with every candidate revision, rejected ones too. `critique` is None with
    `revise.method: context`."""

    round: Count
    principle_id: str
    critique: Critique | None
    revisions: tuple[Revision, ...]


@dataclass(frozen=True, slots=True)
class RevisionTrace(_Record):
    """The whole way of one answer: the first response, every round, and what came of it."""

    prompt: Prompt
    response: Response
    rounds: tuple[RevisionRound, ...]
    constitution_hash: str
    id: str = ""
    _identity: ClassVar[tuple[str, ...]] = ("prompt", "response", "constitution_hash")

    @property
    def final(self) -> Response:
        """The answer that stands at the end: the last accepted revision, or the first response."""
        for turn in reversed(self.rounds):
            for revision in turn.revisions:
                if revision.accepted and revision.response is not None:
                    return revision.response
        return self.response

    @property
    def revised(self) -> bool:
        return self.final.id != self.response.id


@dataclass(frozen=True, slots=True)
class SftExample(_Record):
    """One row of SFT data: the conversation and the response to learn. `kind`: accepted revision or helpful answer.

    `finish` is "length" for a text that does not end here: it is learnt without an end-of-turn token.
    """

    prompt: Prompt
    response: str
    kind: Literal["revision", "helpful"]
    parent_id: str
    finish: FinishReason = "stop"
    id: str = ""
    _identity: ClassVar[tuple[str, ...]] = ("prompt", "response", "kind")


@dataclass(frozen=True, slots=True)
class Rollout:
    """A response of a PPO step, one of the few that are kept to be read.

    `parts`: what each source of the reward said of it, by the name of its column (`score_NAME`, `disagreement`); None
    where it said nothing."""

    step: int
    prompt_id: str
    prompt: str
    response: str
    finish: FinishReason
    score: float
    parts: dict[str, float | None]

    @classmethod
    def of_row(cls, row: dict[str, Any]) -> Rollout:
        """The rollout in a flat line of ppo/rollouts.jsonl; raises ValueError naming the field that is wrong."""
        own = {field.name for field in fields(cls)}
        parts = {name: value for name, value in row.items() if name not in own}
        return from_json(cls, {**{name: row[name] for name in own & row.keys()}, "parts": parts})

    def as_row(self) -> dict[str, Any]:
        """The flat line."""
        row = to_json(self)
        parts: dict[str, float | None] = row.pop("parts")
        return {**row, **parts}


@dataclass(frozen=True, slots=True)
class WinRate:
    """Share of comparisons that `model` wins against `against`: prob > 0.5 is a win, exactly 0.5 half a one.

    `low`, `high`: 95 % interval, bootstrap over prompts. `unscored` comparisons have no label and are in no share.
    `prompts` are those of the scored ones; None in files of before.
    """

    model: str
    against: str
    slice: str
    rate: float | None
    low: float | None
    high: float | None
    scored: int
    unscored: int
    prompts: int | None = None


@dataclass(frozen=True, slots=True)
class StageRecord:
    """What a finished stage leaves as `stage.json`, written last: the file exists <=> the stage is finished."""

    stage: str
    config: dict[str, Any]
    config_hash: str
    inputs: dict[str, str]
    """Name of each input (a file of an earlier stage, the constitution, the model) -> hash of its content."""
    counts: dict[str, float]
    """Records written and failed by kind, tokens, calls, headline results. Flat, so that it reads as a table row."""
    seconds: float
    peak_memory_gb: float
    versions: dict[str, str]
    git: str
    seed: int
    hardware: str
    started: str
    finished: str
    sessions: int = 1
    """How many times the stage was started until it finished (1 = never interrupted)."""
