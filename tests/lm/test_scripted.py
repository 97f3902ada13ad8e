"""The scripted model: rules first, then hashes; the same on every machine."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from rlaif.core.errors import DataError
from rlaif.core.records import Failure, Message
from rlaif.lm.protocol import ChoiceLogprobs, ChoiceRequest, GenerateRequest, LanguageModel, ScoreRequest
from rlaif.lm.scripted import ScriptedModel
from tests.fakes import scored


def ask(
    text: str, *, seed: int = 1, temperature: float = 1.0, tokens: int = 20, stop: tuple[str, ...] = ()
) -> GenerateRequest:
    messages = (Message("user", "first turn"), Message("user", text))
    return GenerateRequest(messages, tokens, temperature, seed, stop=stop)


def text_of(model: LanguageModel, request: GenerateRequest) -> str | None:
    return model.ask([request])[0].text


def test_the_first_rule_found_in_the_last_message_replies() -> None:
    model = ScriptedModel.from_rules([("first turn", "never"), (r"(?i)cat", "Meow."), ("cat|dog", "Woof.")])
    assert [g.text for g in model.ask([ask("a Cat"), ask("a dog"), ask("a cat and a dog")])] == [
        "Meow.",
        "Woof.",
        "Meow.",
    ]


def test_a_reply_is_cut_at_stop_and_after_the_allowed_words() -> None:
    model = ScriptedModel.from_rules([("", "One two\nthree. END four")])
    whole, cut, stopped, nothing = model.ask(
        [ask("x"), ask("x", tokens=3), ask("x", stop=("END",)), ask("x", stop=("One",))]
    )
    assert (whole.text, whole.finish, whole.n_tokens) == ("One two\nthree. END four", "stop", 5)
    assert (cut.text, cut.finish, cut.n_tokens) == ("One two\nthree.", "length", 3)
    assert (stopped.text, stopped.finish) == ("One two\nthree.", "stop")
    assert (nothing.text, nothing.failure and nothing.failure.kind) == (None, "empty")


def test_without_a_rule_the_text_depends_on_the_request_alone() -> None:
    one, other = ScriptedModel(), ScriptedModel()
    texts = [text_of(one, ask("q", seed=n)) for n in range(30)]
    assert texts == [text_of(other, ask("q", seed=n)) for n in range(30)]
    assert len(set(texts)) > 10
    assert len({text_of(one, ask("q", seed=n, temperature=0.0)) for n in range(5)}) == 1


def test_choices_are_a_distribution_and_the_same_again() -> None:
    requests = [ChoiceRequest((Message("user", str(n)),), ("A", "B", "C")) for n in range(20)]
    first, again = ScriptedModel().ask(requests), ScriptedModel().ask(requests)
    assert first == again
    for result in first:
        assert result.logprobs is not None
        assert math.fsum(map(math.exp, result.logprobs)) == pytest.approx(1.0)
    assert len({result.logprobs for result in first}) == 20


def test_a_handler_may_say_anything_to_a_mixed_batch() -> None:
    user = (Message("user", "q"),)
    requests = [GenerateRequest(user, 2, 1.0, 1), ChoiceRequest(user, ("A", "B")), ScoreRequest(user, "two words")]
    texts = iter([" one two three", [0.0, 0.0], 0.0])
    said, chosen, weighed = ScriptedModel(lambda _: next(texts)).ask(requests)
    assert (said.text, said.finish) == (" one two", "length")
    assert chosen.logprobs == pytest.approx([math.log(0.5)] * 2)
    assert weighed.token_logprobs == pytest.approx([math.log(0.5)] * 2)

    failure = Failure("refused", "no")
    assert [answer.failure for answer in ScriptedModel(lambda _: failure).ask(requests)] == [failure] * 3
    whole = ChoiceLogprobs((-1.0, -2.0), bounds=(1,))
    assert ScriptedModel(lambda _: whole).ask(requests[1:2]) == [whole]
    assert ScriptedModel(lambda _: None, fingerprint=ScriptedModel().fingerprint).ask(requests) == ScriptedModel().ask(
        requests
    )


def test_scores_become_log_softmax_and_log_sigmoid() -> None:
    model = scored(lambda messages, text: float(text.count("kind") - messages[-1].content.count("!")))
    choice = model.ask([ChoiceRequest((Message("user", "?"),), ("kind", "rude"))])[0]
    # e / (e + 1) and 1 / (e + 1)
    assert choice.logprobs == pytest.approx((math.log(0.7310586), math.log(0.2689414)), abs=1e-6)
    mild, sharp = model.ask(
        [ScoreRequest((Message("user", "hm"),), "be so rude"), ScoreRequest((Message("user", "!!"),), "kind kind")]
    )
    assert mild.token_logprobs == pytest.approx([math.log(0.5)] * 3)
    assert sharp.token_logprobs == pytest.approx([math.log(0.5)] * 2)
    assert model.usage.as_counts("judge")["judge_scored_tokens"] == 5


def test_extreme_scores_do_not_overflow() -> None:
    model = scored(lambda _, text: 1e4 if text == "A" else -1e4)
    assert model.ask([ChoiceRequest((Message("user", "?"),), ("A", "B"))])[0].logprobs == (0.0, -2e4)
    low = model.ask([ScoreRequest((Message("user", "?"),), "B")])[0]
    assert low.token_logprobs == (-1e4,)


def test_scores_are_one_negative_number_per_word() -> None:
    user = (Message("user", "q"),)
    full, empty, start = ScriptedModel().ask(
        [ScoreRequest(user, "three short words"), ScoreRequest(user, " "), ScoreRequest(user, "three short words", 2)]
    )
    assert start.token_logprobs is not None
    assert len(start.token_logprobs) == 2
    assert full.token_logprobs is not None
    assert len(full.token_logprobs) == 3
    assert all(value < 0 for value in full.token_logprobs)
    assert empty.failure is not None
    assert empty.failure.kind == "empty"


def test_the_fingerprint_knows_the_rules() -> None:
    assert ScriptedModel.from_rules([("a", "b")]).fingerprint == ScriptedModel.from_rules([("a", "b")]).fingerprint
    assert ScriptedModel.from_rules([("a", "b")]).fingerprint != ScriptedModel.from_rules([("a", "c")]).fingerprint


def test_rules_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "polite.jsonl"
    file.write_text('{"match": "rude\\\\?", "reply": "No."}\n\n{"match": "", "reply": "Yes."}\n')
    model = ScriptedModel.from_file(file)
    assert (model.name, text_of(model, ask("rude?")), text_of(model, ask("rude"))) == ("polite", "No.", "Yes.")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"match": "(", "reply": "x"}', "regex"),
        ('{"match": "x"}', "not a rule"),
        ('{"match": "x", "reply": 3}', "not a rule"),
        ('{"match": "x", "reply": "y", "mach": "z"}', "not a rule"),
        ('{"match": ', "JSON"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str, said: str) -> None:
    file = tmp_path / "rules.jsonl"
    file.write_text('{"match": "a", "reply": "b"}\n' + line + "\n")
    with pytest.raises(DataError, match=said) as caught:
        ScriptedModel.from_file(file)
    assert caught.value.where == f"{file}:2"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        ScriptedModel.from_file(tmp_path / "none.jsonl")
