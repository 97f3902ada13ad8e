"""Typed questions: what is sent in the two protocols, and what of a reply is taken for an answer."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from rlaif.core.errors import BackendError
from rlaif.export import serving
from rlaif.lm.local.load import resolve
from rlaif.lm.protocol import DecisionRequest, Question
from rlaif.lm.server.decisions import decision_body, parse_decisions
from rlaif.lm.server.replies import BrokenReply
from tests.fault_server import Answer, client, error
from tests.judge.cases import KIND, comparison, judge, only
from tests.lm.server.asked import ask

ASKED = DecisionRequest(
    "State <|im_end|>.", (Question("a", "First?", ("x", "y")), Question("b", "Second?", ("x", "y")))
)


def by_name(**answers: dict[str, Any]) -> dict[str, Any]:
    """A reply of System One."""
    found = {name: {"type": "choice", "choice": "x", "probabilities": given} for name, given in answers.items()}
    return {"model": "m", "answers": found, "usage": {"input_tokens": 30, "output_tokens": 0}}


def listed(*answers: dict[str, Any]) -> dict[str, Any]:
    """A reply of OpenAI's protocol."""
    return {"model": "m", "answers": list(answers), "usage": {"input_tokens": 30, "output_tokens": 2}}


def chosen(name: str, **given: float) -> dict[str, Any]:
    probabilities = [{"value": value, "probability": p} for value, p in given.items()]
    return {"type": "choice", "name": name, "choice": "x", "confidence": 0.5, "probabilities": probabilities}


GOOD = by_name(a={"x": 0.25, "y": 0.75}, b={"y": 0.5, "x": 0.5})


def test_all_questions_go_in_one_request_of_either_protocol() -> None:
    systemone, decisions = decision_body("systemone", ASKED), decision_body("decisions", ASKED)
    assert systemone == {
        "state": "State < |im_end|>.",
        "questions": {
            "a": {"type": "choice", "instructions": "First?", "criteria": {"x": None, "y": None}},
            "b": {"type": "choice", "instructions": "Second?", "criteria": {"x": None, "y": None}},
        },
    }
    choices = [{"value": "x"}, {"value": "y"}]
    assert decisions == {
        "input": "State < |im_end|>.",
        "questions": [
            {"type": "choice", "name": "a", "instructions": "First?", "choices": choices},
            {"type": "choice", "name": "b", "instructions": "Second?", "choices": choices},
        ],
    }


def test_the_libraries_take_what_is_sent() -> None:
    """transformers' own check of a System One request, and OpenAI's own type of a decision's."""
    from openai.types.decision_create_params import QuestionQuestionParamChoice
    from pydantic import TypeAdapter
    from transformers.decision import DecisionConfig, parse_questions

    found = parse_questions(decision_body("systemone", ASKED)["questions"], DecisionConfig())
    assert [(question.name, question.options) for question in found] == [("a", ["x", "y"]), ("b", ["x", "y"])]
    for question in decision_body("decisions", ASKED)["questions"]:
        TypeAdapter(QuestionQuestionParamChoice).validate_python(question)


def test_answers_are_read_in_the_order_of_the_questions() -> None:
    expected = ((0.25, 0.75), (0.5, 0.5))
    by_list = listed(chosen("b", y=0.5, x=0.5), chosen("a", x=0.25, y=0.75))
    for body, written in ((GOOD, 0), (by_list, 2)):
        found = parse_decisions(json.dumps(body), ASKED.questions)
        assert found.probabilities == expected
        assert (found.prompt_tokens, found.completion_tokens) == (30, written)


def test_rounded_probabilities_are_scaled_to_add_up_to_one() -> None:
    body = by_name(a={"x": 0.33, "y": 0.66}, b={"x": 1, "y": 0})
    found = parse_decisions(json.dumps(body), ASKED.questions)
    assert found.probabilities == ((pytest.approx(1 / 3), pytest.approx(2 / 3)), (1.0, 0.0))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (by_name(a={"x": 0.25, "y": 0.75}), "leaves out the question b"),
        (by_name(a={"x": 0.25, "z": 0.75}, b={"x": 1, "y": 0}), "a has other options"),
        (by_name(a={"x": 1.0}, b={"x": 1, "y": 0}), "a has other options"),
        (by_name(a={"x": 0.9, "y": 0.9}, b={"x": 1, "y": 0}), "add up to 1.8"),
        (by_name(a={"x": -0.1, "y": 1.0}, b={"x": 1, "y": 0}), "malformed"),
        (by_name(a={"x": True, "y": 0}, b={"x": 1, "y": 0}), "malformed"),
        (by_name(a={"x": "0.5", "y": 0.5}, b={"x": 1, "y": 0}), "malformed"),
        (by_name(a={"x": float("nan"), "y": 0.5}, b={"x": 1, "y": 0}), "malformed"),
        ({"answers": {"a": {"type": "noul", "noul": 0.5}}}, "malformed"),
        ({"answers": []}, "leaves out the question a"),
        ({}, "malformed at answers"),
        ([], "malformed"),
    ],
)
def test_what_is_no_answer_is_malformed(body: Any, said: str) -> None:
    with pytest.raises(BrokenReply, match=said):
        parse_decisions(json.dumps(body), ASKED.questions)


@pytest.mark.parametrize("text", ["", "<html>", "[" * 100_000, '{"answers": '])
def test_what_is_no_json_is_malformed(text: str) -> None:
    with pytest.raises(BrokenReply, match="malformed"):
        parse_decisions(text, ASKED.questions)


def test_a_reply_that_cannot_be_read_is_asked_for_again(start: Any) -> None:
    server, model = start(lambda _, before: Answer(GOOD if before else {}), api="systemone", max_retries=1)
    assert model.ask([ASKED])[0].probabilities == ((0.25, 0.75), (0.5, 0.5))
    assert [seen.path for seen in server.seen] == ["/v1/systemone"] * 2
    assert (model.usage.calls, model.usage.prompt_tokens) == (1, 30)


def test_a_question_that_is_refused_takes_no_other_with_it(start: Any) -> None:
    body = listed(chosen("a", x=0.25, y=0.75), {"type": "refusal", "name": "b"})
    server, model = start(lambda *_: Answer(body), api="decisions", extra_body={"safety_identifier": "me"})
    found = model.ask([ASKED])[0]
    assert found.probabilities == ((0.25, 0.75), None)
    assert found.failure.kind == "refused"
    assert (server.seen[0].path, server.bodies()[0]["safety_identifier"]) == ("/v1/decisions", "me")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (error(501, "This model is not a decision model"), "serve a model that answers typed questions"),
        (error(404, "File Not Found"), "the endpoint of judge.api"),
    ],
)
def test_a_server_without_decisions_ends_the_work_at_once(start: Any, answer: Answer, said: str) -> None:
    server, model = start(lambda *_: answer, api="systemone", max_retries=5, concurrency=1)
    with pytest.raises(BackendError, match=said):
        model.ask([ASKED] * 20)
    assert len(server.seen) == 1


def test_a_server_that_cannot_be_used_is_found_out_by_a_short_question(start: Any) -> None:
    server, model = start(lambda *_: error(400, "no such letters"), api="systemone", concurrency=1)
    with pytest.raises(BackendError, match="no such letters"):
        model.ask([DecisionRequest(str(n), ASKED.questions) for n in range(20)])
    short = server.bodies()[-1]
    assert (short["state"], list(short["questions"])) == ("Say yes.", ["a"])


def test_each_endpoint_answers_its_own_questions(start: Any) -> None:
    _, deciding = start(lambda *_: Answer(GOOD), api="systemone")
    with pytest.raises(BackendError, match="answers no GenerateRequest"):
        deciding.ask([ask("q")])
    _, chatting = start(lambda *_: Answer(GOOD))
    with pytest.raises(BackendError, match="answers no DecisionRequest"):
        chatting.ask([ASKED])


@pytest.fixture
def transformers_server() -> Iterator[tuple[str, str]]:
    """(address, name of the model) of `transformers serve` with the embedded model."""
    if serving.ENGINES["transformers"].missing:
        pytest.skip("transformers[serving] is not installed")
    folder, _ = resolve("embedded")
    port = serving.port_to_take("127.0.0.1", 0)
    command = serving.ENGINES["transformers"].command(folder, folder, "127.0.0.1", port)
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        assert serving._listens(process, "127.0.0.1", port)
        yield f"http://127.0.0.1:{port}/v1", folder
    finally:
        process.terminate()
        process.wait(60)


@pytest.mark.slow
def test_a_real_server_decides_as_the_same_model_does_here(transformers_server: tuple[str, str]) -> None:
    from rlaif.config import ModelConfig
    from rlaif.lm.backends import open_local

    url, name = transformers_server
    pairs = [comparison("Of course, my friend.", "Go away."), comparison("No.", "Yes, gladly.")]
    served = client(url, source=name, api="systemone", timeout=120.0)
    here = open_local(ModelConfig(source=name, dtype="bfloat16"))
    there, own = (judge(model, only(KIND), method="decision").label(pairs) for model in (served, here))
    for a, b in zip(there, own, strict=True):
        assert a.failure is b.failure is None
        assert [v.prob_first for v in a.verdicts] == pytest.approx([v.prob_first for v in b.verdicts], abs=0.05)
    assert served.usage.calls == here.usage.calls == 4
    assert served.usage.prompt_tokens == here.usage.prompt_tokens > 4 * 50
    served.close()
    here.close()


@pytest.mark.slow
def test_a_real_server_whose_model_does_not_decide_says_so(llama_server: str) -> None:
    model = client(llama_server, source="smollm2", api="systemone", max_retries=3)
    with pytest.raises(BackendError, match="not a decision model") as caught:
        judge(model, only(KIND), method="decision").label([comparison()])
    assert "serve a model that answers typed questions" in str(caught.value)
    model.close()
