"""The judge's table of a run config, and its panel."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlaif.core.yaml import dump_yaml
from rlaif.judge.load import load
from tests.config.files import MINIMAL, fails

PANEL = f"{MINIMAL}judge: {{panel: [{{name: big, method: rating}}, {{name: a.b}}, {{name: '0'}}]}}\n"


@pytest.mark.parametrize(
    ("member", "place"), [("big", 0), ("a.b", 1), ("1", 1), ("2", 2), pytest.param("0", 2, id="a name before a place")]
)
def test_overrides_reach_a_member_of_a_panel_by_name_or_place(file: Path, member: str, place: int) -> None:
    file.write_text(PANEL)
    limits = [found.max_calls for found in load(file, [f"judge.panel.{member}.max_calls=7"]).judge.panel]
    assert limits == [7 if number == place else None for number in range(3)]


@pytest.mark.parametrize("keys", ["none.max_calls", "3.max_calls", "-1.max_calls", "big", "0"])
def test_overrides_of_a_member_that_is_not_there_are_errors(file: Path, keys: str) -> None:
    assert f"panel is a list, and {keys} is no field" in fails(file, PANEL, f"judge.panel.{keys}=7")


def test_a_server_that_completes_may_judge_by_contrast(file: Path) -> None:
    table = "judge: {backend: openai, source: m, api: completions, method: contrast}\n"
    file.write_text(MINIMAL + table)
    assert load(file).judge.method == "contrast"


@pytest.mark.parametrize("more", ["method: rating", "method: cot, clamp: null", "method: cot, clamp: [0.1, 0.9]"])
def test_without_a_narrow_clamp_a_label_may_be_far_from_one_half(file: Path, more: str) -> None:
    file.write_text(MINIMAL + f"judge: {{abstain_below: 0.2, {more}}}\nrevise: {{gate: 0.7}}\n")
    config = load(file)
    file.write_text(dump_yaml(config.model_dump(mode="json")))
    assert load(file) == config


SERVED = f"{MINIMAL}judge:\n  backend: openai\n  source: m\n  base_url: http://127.0.0.1:8000/v1\n"


def test_a_judge_that_thinks_is_set_up_in_a_file_and_by_overrides(file: Path) -> None:
    file.write_text(
        SERVED + "  method: cot\n  thinking_tokens: 2048\n  temperature: 0.6\n"
        "  extra_body: {chat_template_kwargs: {enable_thinking: true}, top_k: 20}\n"
    )
    judge = load(file, ["judge.extra_body.chat_template_kwargs.enable_thinking=false", "judge.extra_body.n_x=1"]).judge
    assert judge.extra_body == {"chat_template_kwargs": {"enable_thinking": False}, "top_k": 20, "n_x": 1}
    settings = judge.settings()
    assert {"extra_body", "thinking_tokens", "temperature", "reasoning_effort", "verdict"} <= settings.keys()
    file.write_text(dump_yaml(load(file).model_dump(mode="json")))
    assert load(file).judge.thinking_tokens == 2048


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("  method: cot\n  extra_body: {temperature: 1}\n", "temperature is set by judge.temperature: take it out"),
        ("  method: cot\n  extra_body: {max_tokens: 9}\n", "judge.thinking_tokens and judge.rationale_tokens"),
        ("  method: cot\n  extra_body: {messages: []}\n", "messages is set by the question"),
        ("  method: cot\n  extra_body: {n: 2}\n", "n is set by how answers are read"),
        ("  method: cot\n  extra_body: {reasoning_effort: low}\n", "set by judge.reasoning_effort"),
        ("  method: cot\n  extra_body: {response_format: {}}\n", "set by judge.verdict"),
        ("  method: cot\n  extra_body: {api_key: x}\n", "api_key looks like a key"),
        ("  method: cot\n  extra_body: {a: [{X-Api-Key: x}]}\n", "judge.api_key_env"),
        ("  method: cot\n  extra_body: {headers: {Authorization: x}}\n", "Authorization looks like a key"),
        ("  method: cot\n  extra_body: [1]\n", "judge.extra_body"),
        ("  method: cot\n  reasoning_effort: lots\n", "judge.reasoning_effort"),
        ("  method: cot\n  temperature: 3\n", "judge.temperature"),
        ("  method: pairwise\n  thinking_tokens: 9\n", "pairwise asks for an answer that is begun"),
        ("  method: rating\n  thinking_tokens: 9\n", "set judge.prefix: folded"),
        ("  method: pairwise\n  verdict: json\n", "judge.verdict: json is for cot and rating"),
        ("  method: decision\n", "decision needs judge.api: systemone or decisions"),
        ("  method: pairwise\n  api: systemone\n", "judge.api: systemone answers judge.method: decision alone"),
        ("  method: contrast\n  api: decisions\n", "judge.api: decisions answers judge.method: decision alone"),
        ("  method: cot\n  verdict: json\n  api: completions\n", "judge.verdict: json needs"),
        ("  method: cot\n  thinking_tokens: 9\n  api: completions\n", "judge.thinking_tokens needs judge.api: chat"),
    ],
)
def test_what_a_judge_behind_a_server_cannot_be_asked_is_told(file: Path, more: str, said: str) -> None:
    assert said in fails(file, SERVED + more)


@pytest.mark.parametrize(
    "field", ["temperature: 0.6", "thinking_tokens: 9", "reasoning_effort: low", "extra_body: {top_k: 20}"]
)
def test_a_judge_of_this_machine_takes_no_field_of_a_server(file: Path, field: str) -> None:
    assert "is sent to a server: set judge.backend: openai" in fails(file, f"{MINIMAL}judge: {{{field}}}\n")


def test_tokens_of_other_meanings_are_no_keys(file: Path) -> None:
    file.write_text(SERVED + "  method: cot\n  extra_body: {thinking_token_budget: 9, stop_token_ids: [1]}\n")
    assert load(file).judge.extra_body == {"thinking_token_budget": 9, "stop_token_ids": [1]}


def test_a_panel_may_think_where_the_judge_does_not(file: Path) -> None:
    member = "{name: deep, backend: openai, source: m, method: cot, thinking_tokens: 9}"
    file.write_text(f"{MINIMAL}judge: {{panel: [{member}]}}\n")
    assert load(file).judge.panel[0].thinking_tokens == 9
