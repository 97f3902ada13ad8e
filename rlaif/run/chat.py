"""`rlaif chat`: the models of a run answer the same question side by side, and its judge compares the answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

from rlaif.config import PolicyName
from rlaif.core.records import Comparison, Failure, Message, PreferenceLabel, Prompt, Response, record_seed
from rlaif.judge.aggregate import votes
from rlaif.judge.judge import Judge
from rlaif.lm.protocol import GenerateRequest, Generation, LanguageModel
from rlaif.report.summary import name_of
from rlaif.run.open import Run, load_judge
from rlaif.view.answer import Example, Table
from rlaif.view.text import percent


@dataclass(frozen=True, slots=True)
class Opinion:
    """The judge's label of model `a`'s answer against model `b`'s, and by principle P(a's is better)."""

    a: str
    b: str
    prob_a: float | None
    principles: dict[str, float | None]
    failure: Failure | None


@dataclass(frozen=True, slots=True)
class Turn:
    """A question, each model's answer, and what the judge says of each answer and the one before it."""

    prompt: Prompt
    answers: dict[str, Generation]
    opinions: tuple[Opinion, ...] = ()

    def as_json(self) -> dict[str, Any]:
        return {
            "question": self.prompt.text,
            "answers": {
                name: {
                    "text": made.text,
                    "finish": made.finish,
                    "tokens": made.n_tokens,
                    "failure": None if made.failure is None else made.failure.reason,
                }
                for name, made in self.answers.items()
            },
            "judge": [
                {
                    "a": said.a,
                    "b": said.b,
                    "prob_a": said.prob_a,
                    "principles": said.principles,
                    "failure": None if said.failure is None else said.failure.reason,
                }
                for said in self.opinions
            ],
        }

    def as_example(self) -> Example:
        """The answers side by side, the judge's opinion below them."""
        texts = [(name_of(name), _told(made)) for name, made in self.answers.items()]
        return Example("question", (), self.prompt, texts, self._table())

    def _table(self) -> Table | None:
        if not self.opinions:
            return None
        head = ["the judge prefers", *(f"{name_of(said.a)} to {name_of(said.b)}" for said in self.opinions)]
        rows = [["in all", *(_share(said.prob_a, said.failure) for said in self.opinions)]]
        names = dict.fromkeys(name for said in self.opinions for name in said.principles)
        rows += [[name, *(_share(said.principles.get(name), None) for said in self.opinions)] for name in names]
        return Table(head, rows, strong=(0,))


class Chat:
    """Models of a run that answer questions, each question by itself, as `evaluate` has them answer.

    `models` are those to ask, by default every one that the run has trained so far. Each is held in memory. With
    `judge` the run's judge compares each answer with that of the model before, under every principle.
    """

    def __init__(
        self,
        run: Run,
        *,
        models: Sequence[str] | None = None,
        judge: bool = False,
        system: str | None = None,
        max_new_tokens: int | None = None,
        temperature: float | None = None,
        seed: int | None = None,
    ) -> None:
        settings = run.config.evaluate
        self.max_new_tokens = settings.max_new_tokens if max_new_tokens is None else max_new_tokens
        self.temperature = settings.temperature if temperature is None else temperature
        self.seed = run.config.seed if seed is None else seed
        self.before = () if system is None else (Message("system", system),)
        self.judge: Judge | None = None
        if judge:  # of all principles: the config may draw one for each prompt, and a slice may have its own
            self.judge = load_judge(run, constitution=run.constitution, set=["judge.principles=all"])
        self.models: dict[str, LanguageModel] = {}
        for name in dict.fromkeys(trained(run) if models is None else models):
            self.models[name] = run.policy(cast(PolicyName, name))  # which refuses every other name

    def ask(self, question: str) -> Turn:
        """The answers to the question; the same seed for every model, so that asked again they say the same."""
        prompt = Prompt((*self.before, Message("user", question)))
        seed = record_seed(self.seed, "chat", prompt.id)
        request = GenerateRequest(prompt.messages, self.max_new_tokens, self.temperature, seed)
        answers = {name: model.ask([request])[0] for name, model in self.models.items()}
        return Turn(prompt, answers, self._opinions(self.judge, prompt, answers) if self.judge else ())

    def _opinions(self, judge: Judge, prompt: Prompt, answers: dict[str, Generation]) -> tuple[Opinion, ...]:
        given = [(name, made) for name, made in answers.items() if (made.text or "").strip()]
        pairs = [(one, other) for other, one in pairwise(given) if one[1].text != other[1].text]
        labels = judge.label(
            [Comparison(prompt, self._response(prompt, *one), self._response(prompt, *other)) for one, other in pairs]
        )
        return tuple(
            Opinion(one, other, label.prob_a, _by_principle(judge, label), label.failure)
            for ((one, _), (other, _)), label in zip(pairs, labels, strict=True)
        )

    def _response(self, prompt: Prompt, name: str, made: Generation) -> Response:
        return Response(prompt.id, made.text or "", name, 0, self.temperature, made.finish, made.n_tokens)

    def close(self) -> None:
        for model in self.models.values():
            model.close()
        if self.judge is not None:
            self.judge.close()


def trained(run: Run) -> list[PolicyName]:
    """The base model, and those beside it whose adapters are there."""
    return [
        name
        for name, stages in run.config.policies.items()
        if (stages or name == "base") and all((run.path / stage / "adapter").is_dir() for stage in stages)
    ]


def _by_principle(judge: Judge, label: PreferenceLabel) -> dict[str, float | None]:
    found = votes(label.verdicts, judge.constitution.principles, judge.settling.panel)
    return {vote.principle.id: vote.prob_a for vote in found}


def _told(made: Generation) -> str:
    if made.failure is not None:
        return f"(no answer: {made.failure.reason})"
    return f"{made.text} …" if made.finish == "length" else made.text or ""


def _share(probability: float | None, failure: Failure | None) -> str:
    return failure.kind if probability is None and failure is not None else percent(probability)
