"""The budget: no request beyond it, no answer lost to it, and the same result once it is raised."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rlaif.config import JudgeConfig, ModelConfig
from rlaif.core.errors import BackendError, BudgetError, ConfigError
from rlaif.core.records import Message
from rlaif.lm.budget import Budget
from rlaif.lm.cache import CachedModel
from rlaif.lm.open import open_judge
from rlaif.lm.protocol import ChoiceRequest, GenerateRequest, Usage
from rlaif.lm.scripted import ScriptedModel
from rlaif.lm.server.requests import Endpoint
from tests.fault_server import Answer, FaultServer, chat, client, error, last, serving

CONCURRENCY = 4


def ask(n: int) -> GenerateRequest:
    return GenerateRequest((Message("user", str(n)),), 9, 0.0, 0)


def echo(body: dict[str, Any], _: int) -> Answer:
    """Ten tokens for an answer: seven read, three written."""
    return Answer(chat(f"answer {last(body)}").body, hang=0.01)


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with serving(echo) as running:
        yield running


def opened(server: FaultServer, path: Path, budget: Budget, *, counts_before: bool = True) -> CachedModel:
    model = client(server.url, concurrency=CONCURRENCY, max_retries=1, timeout=5)
    return CachedModel(model, path / "judge.sqlite", budget=budget, counts_before=counts_before)


def test_calls_stop_at_the_very_number_and_every_answer_is_kept(server: FaultServer, tmp_path: Path) -> None:
    requests = [ask(n) for n in range(40)]
    model = opened(server, tmp_path, Budget(max_calls=17))
    with pytest.raises(BudgetError) as caught:
        model.ask(requests)
    assert len(server.seen) == 17
    assert caught.value.exit_code == 8
    for part in ("judge.max_calls (17)", "17 calls", "170 tokens", "not asked: 23", "--resume"):
        assert part in str(caught.value)
    model.close()

    again = opened(server, tmp_path, Budget(max_calls=40))
    assert [answer.text for answer in again.ask(requests)] == [f"answer {n}" for n in range(40)]
    assert (again.usage.calls, again.usage.cached, len(server.seen)) == (23, 17, 40)
    assert again.spent() == Usage(calls=40, prompt_tokens=280, generated_tokens=120)
    again.close()


def test_what_is_cached_costs_nothing_of_a_budget_that_is_spent(server: FaultServer, tmp_path: Path) -> None:
    model = opened(server, tmp_path, Budget(max_calls=3))
    model.ask([ask(n) for n in range(3)])
    assert [answer.text for answer in model.ask([ask(2), ask(0)])] == ["answer 2", "answer 0"]
    with pytest.raises(BudgetError, match="not asked: 1 "):
        model.ask([ask(0), ask(3)])
    model.close()


@pytest.mark.parametrize(
    ("budget", "limit"),
    [
        (Budget(max_tokens=100), "judge.max_tokens"),
        (Budget(max_cost=130.0, price_in=1_000_000.0, price_out=2_000_000.0), "judge.max_cost (130)"),  # 7 + 2 * 3 each
    ],
)
def test_tokens_and_money_are_passed_by_at_most_what_was_in_flight(
    server: FaultServer, tmp_path: Path, budget: Budget, limit: str
) -> None:
    model = opened(server, tmp_path, budget)
    with pytest.raises(BudgetError) as caught:
        model.ask([ask(n) for n in range(40)])
    assert limit in str(caught.value)
    assert 10 <= len(server.seen) < 10 + CONCURRENCY
    with pytest.raises(BudgetError):
        model.ask([ask(99)])
    assert len(server.seen) < 10 + CONCURRENCY
    model.close()


def test_money_is_told_as_it_was_spent() -> None:
    budget = Budget(max_cost=1.0, price_in=0.5, price_out=2.0)
    spent = Usage(calls=3, prompt_tokens=4_000_000, generated_tokens=250_000)
    assert budget.cost(spent) == 2.5
    assert "2.50 in money" in str(budget.error("judge.max_cost", spent, 0))


def test_a_run_counts_from_its_first_command_and_the_users_cache_from_this_one(
    server: FaultServer, tmp_path: Path
) -> None:
    first = opened(server, tmp_path, Budget())
    first.ask([ask(1), ask(2)])
    first.close()
    fresh = opened(server, tmp_path, Budget(max_calls=2), counts_before=False)
    fresh.ask([ask(3), ask(4)])
    fresh.close()
    run = opened(server, tmp_path, Budget(max_calls=5))
    with pytest.raises(BudgetError, match="5 calls"):
        run.ask([ask(5), ask(6)])
    run.close()


def test_members_on_one_model_share_what_is_counted(server: FaultServer, tmp_path: Path) -> None:
    one, other = opened(server, tmp_path, Budget(max_calls=5)), opened(server, tmp_path, Budget(max_tokens=60))
    one.ask([ask(1), ask(2)])
    other.ask([ask(3), ask(4)])
    with pytest.raises(BudgetError, match="5 calls, 50 tokens; not asked: 1 "):
        one.ask([ask(5), ask(6)])
    other.ask([ask(7)])
    with pytest.raises(BudgetError, match="6 calls, 60 tokens"):
        other.ask([ask(8)])
    assert len(server.seen) == 6
    one.close()
    other.close()


def test_what_another_process_spends_during_a_batch_counts(tmp_path: Path) -> None:
    def behaviour(body: dict[str, Any], before: int) -> Answer:
        if last(body) == "4":
            second = CachedModel(ScriptedModel(), tmp_path / "judge.sqlite")
            second.fingerprint = Endpoint("m", server.url).fingerprint
            second.ask([ask(100 + n) for n in range(50)])
            second.close()
        return echo(body, before)

    with serving(behaviour) as server:
        model = opened(server, tmp_path, Budget(max_calls=60))
        with pytest.raises(BudgetError):
            model.ask([ask(n) for n in range(40)])
        assert 10 <= len(server.seen) < 40
        model.close()


def test_the_tries_after_a_failed_one_do_not_count(tmp_path: Path) -> None:
    def behaviour(body: dict[str, Any], before: int) -> Answer:
        return error(429, "slow down", retry_after_ms="5") if before == 0 else echo(body, before)

    with serving(behaviour) as server:
        model = opened(server, tmp_path, Budget(max_calls=5))
        assert all(answer.failure is None for answer in model.ask([ask(n) for n in range(5)]))
        assert len(server.seen) == 10
        model.close()


def test_a_server_that_counts_no_tokens_cannot_keep_a_budget_of_tokens(tmp_path: Path) -> None:
    def uncounted(body: dict[str, Any], before: int) -> Answer:
        answer = echo(body, before)
        del answer.body["usage"]
        return answer

    with serving(uncounted) as server:
        model = opened(server, tmp_path, Budget(max_tokens=1000))
        with pytest.raises(BackendError, match=r"judge.max_calls instead"):
            model.ask([ask(n) for n in range(40)])
        assert len(server.seen) <= 2 * CONCURRENCY
        kept = model.holds([row[0] for row in model._database.execute("SELECT key FROM answers")])
        assert len(kept) == len(server.seen), "what was in flight is paid for and kept"
        model.close()


def test_a_failure_at_the_start_does_not_say_that_a_server_counts_no_tokens(tmp_path: Path) -> None:
    def behaviour(body: dict[str, Any], before: int) -> Answer:
        return error(400, "maximum context length exceeded") if last(body) == "0" else echo(body, before)

    with serving(behaviour) as server:
        model = opened(server, tmp_path, Budget(max_tokens=1000))
        assert model.ask([ask(0)])[0].failure is not None
        answers = model.ask([ask(n) for n in range(9)])
        assert [answer.text for answer in answers] == [None, *(f"answer {n}" for n in range(1, 9))]
        model.close()


def test_a_model_that_answers_as_a_whole_keeps_to_its_calls(tmp_path: Path) -> None:
    model = CachedModel(ScriptedModel(), tmp_path / "judge.sqlite", budget=Budget(max_calls=300))
    with pytest.raises(BudgetError, match="300 calls"):
        model.ask([ask(n) for n in range(700)])
    assert model.usage.calls == 300
    model.close()


@pytest.mark.parametrize(
    ("fields", "asked"),
    [
        ({"max_calls": 2}, 2),
        ({"max_tokens": 1}, 1),
        ({"max_cost": 0.5, "price_in": 500_000.0}, 1),
        ({"max_cost": 0.5, "price_out": 500_000.0}, 3),  # choices are not written
        ({}, 3),
    ],
)
def test_the_fields_of_the_config_are_kept(tmp_path: Path, fields: dict[str, Any], asked: int) -> None:
    judge = JudgeConfig.model_validate({"backend": "scripted", **fields})
    model = open_judge(judge, ModelConfig(), tmp_path)  # type: ignore[call-arg]
    done = 0
    try:
        for text in ("a", "b", "c"):
            model.ask([ChoiceRequest((Message("user", text),), ("A", "B"))])
            done += 1
    except BudgetError:
        pass
    assert (done, model.usage.calls) == (asked, asked)
    model.close()


@pytest.mark.parametrize("fields", [{"max_calls": 1}, {"max_tokens": 1}, {"max_cost": 0.01, "price_in": 9e6}])
def test_a_member_of_a_panel_that_is_at_its_limit_is_named(tmp_path: Path, fields: dict[str, Any]) -> None:
    member = {"name": "big", "backend": "scripted", **fields}
    judge = JudgeConfig.model_validate({"backend": "scripted", "panel": [member]})
    model = open_judge(judge.panel[0], ModelConfig(), tmp_path)  # type: ignore[call-arg]
    model.ask([ask(0)])
    with pytest.raises(BudgetError, match=rf"^judge\.panel\.big\.{next(iter(fields))} \("):
        model.ask([ask(1)])
    model.close()


def test_a_cost_without_prices_is_refused() -> None:
    from rlaif.judge.load import parse

    with pytest.raises(ConfigError, match="price_in"):
        parse({"prompts": {"p": {"source": "x"}}, "judge": {"max_cost": 1}}, where="test")


def test_shards_share_what_is_left_and_spend_no_more_together() -> None:
    whole, spent = Budget(max_calls=101, max_tokens=1000, max_cost=4.0, price_in=1e6), Usage(calls=10, prompt_tokens=1)
    part = whole.share(4, spent)
    assert (part.max_calls, part.max_tokens, part.max_cost) == (10 + 22, 1 + 249, 1 + 0.75)
    assert part.reached(Usage(calls=31, prompt_tokens=1)) is None
    assert part.reached(Usage(calls=32, prompt_tokens=1)) == "judge.max_calls (32 for one of 4 shards)"
    assert Budget(max_calls=5).share(2, Usage(calls=9)).reached(Usage(calls=9)) is not None
    assert Budget().share(2, spent).reached(spent) is None
