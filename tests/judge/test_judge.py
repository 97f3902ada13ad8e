"""The judge's methods on log-probs that are given by hand, and what they may never depend on."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import kstest

from rlaif.config import JudgeConfig, RunConfig
from rlaif.core.errors import ConfigError
from rlaif.core.records import Comparison, Constitution, Message, PreferenceLabel, Principle, Prompt
from rlaif.judge.aggregate import Settling
from rlaif.judge.calibration import CalibrationMap
from rlaif.judge.judge import Judge, opened_models
from rlaif.lm.cache import CachedModel
from rlaif.lm.protocol import ScoreRequest, Usage
from rlaif.lm.scripted import ScriptedModel
from tests.fakes import Listener
from tests.fault_server import Answer, client, serving
from tests.judge.cases import KIND, MARGINS, SHORT, Recorder, comparison, judge, logistic, only, response

# --- contrast ---------------------------------------------------------------------------------------------------------


# --- pairwise ---------------------------------------------------------------------------------------------------------


# --- every method -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("principles", ["all", "one"])
@pytest.mark.parametrize("method", ["contrast", "pairwise", "cot", "rating", "decision", "random"])
def test_swapping_the_responses_turns_the_label_round(method: str, principles: str) -> None:
    used = judge(ScriptedModel(), method=method, principles=principles)
    pairs = [comparison(f"answer {n}", f"reply {n * n}", f"Question {n}?") for n in range(20)]
    labels, swapped = used.label(pairs), used.label([pair.swap() for pair in pairs])
    for label, other in zip(labels, swapped, strict=True):
        assert label.prob_a is not None
        assert other.prob_a is not None
        assert label.prob_a == pytest.approx(1 - other.prob_a, abs=1e-12)
        assert label.id != other.id


@pytest.mark.parametrize("method", ["contrast", "pairwise", "cot", "rating", "decision", "random"])
def test_labels_are_the_same_alone_and_among_others(method: str) -> None:
    pairs = [comparison(f"answer {n}", f"reply {n}", f"Question {n % 3}?") for n in range(6)]
    together = judge(ScriptedModel(), method=method).label(pairs)
    assert together == [judge(ScriptedModel(), method=method).label([pair])[0] for pair in pairs]
    assert [label.comparison for label in together] == pairs
    assert len({label.id for label in together} | {v.id for label in together for v in label.verdicts}) == 6 + sum(
        len(label.verdicts) for label in together
    )


def test_the_id_of_a_label_changes_with_the_constitution() -> None:
    kind, reworded = only(KIND), only(Principle("kind", "Be very kind.", contrast=KIND.contrast))
    first, again, other = (judge(Recorder(MARGINS), c).label([comparison()])[0] for c in (kind, kind, reworded))
    assert first.id == again.id != other.id


def test_one_principle_is_drawn_by_weight_the_same_for_all_pairs_of_a_prompt() -> None:
    used = judge(ScriptedModel(), principles="one", seed=4)
    drawn = [used.principles(comparison(question=f"Question {n}?")) for n in range(2000)]
    assert all(len(chosen) == 1 for chosen in drawn)
    count = Counter(chosen[0].id for chosen in drawn)
    assert count["mute"] == 0
    assert 1400 < count["short"] < 1600  # weight 3 of 4: 1500, standard deviation 19
    again = judge(ScriptedModel(), principles="one", seed=4)
    assert [again.principles(comparison("a", "b", f"Question {n}?")) for n in range(2000)] == drawn
    other = judge(ScriptedModel(), principles="one", seed=5)
    assert [other.principles(comparison(question=f"Question {n}?")) for n in range(2000)] != drawn


def test_a_draw_per_pair_differs_between_the_pairs_of_a_prompt_but_not_when_they_are_swapped() -> None:
    pairs = [comparison("first", f"other {n}") for n in range(200)]
    per_prompt, per_pair = (judge(ScriptedModel(), principles="one", draw_per=per) for per in ("prompt", "pair"))
    assert len({per_prompt.principles(pair) for pair in pairs}) == 1
    assert {chosen[0].id for chosen in map(per_pair.principles, pairs)} == {"kind", "short"}
    assert [per_pair.principles(pair.swap()) for pair in pairs] == [per_pair.principles(pair) for pair in pairs]


def test_a_subset_of_the_principles_is_judged() -> None:
    four = Constitution("four", "1", "", tuple(Principle(f"p{n}", f"Be {n}.") for n in range(4)))
    used = judge(ScriptedModel(), four, principles="subset", subset_size=2, method="pairwise")
    labels = used.label([comparison(question=f"Question {n}?") for n in range(40)])
    sets = {tuple(dict.fromkeys(v.principle_id for v in label.verdicts)) for label in labels}
    assert {len(chosen) for chosen in sets} == {2}
    assert len(sets) == 6
    three = judge(ScriptedModel(), four, principles="subset", subset_size=3, method="pairwise")
    assert len(three.label([comparison()])[0].verdicts) == 2 * 3


def test_tiers_decide_where_the_config_says_so() -> None:
    helpful_first = Constitution("tiers", "1", "", (replace(SHORT, priority=2), KIND))
    by_weight, by_tier, undecided = (
        judge(Recorder(MARGINS), helpful_first, scale=1.0, tier_margin=margin).label([comparison()])[0].prob_a
        for margin in (None, 0.05, 0.4)
    )
    assert by_weight == pytest.approx((logistic(0.35) + 3 * logistic(-0.4)) / 4)
    assert by_tier == pytest.approx(logistic(0.35))  # 0.587 is clear
    assert undecided == pytest.approx(logistic(-0.4))  # within 0.4: the second tier speaks


def test_label_under_judges_each_pair_under_its_own_principles() -> None:
    pairs = [comparison(), comparison(question="Or may I?"), comparison(question="And now?")]
    labels = judge(Recorder(MARGINS)).label_under(pairs, [(SHORT,), (), (KIND, SHORT)])
    assert [[v.principle_id for v in label.verdicts] for label in labels] == [["short"], [], ["kind", "short"]]
    assert labels[1].prob_a is None
    assert labels[1].failure is not None


def test_abstention_is_a_failure_that_keeps_its_verdicts() -> None:
    label = judge(Recorder(MARGINS), only(KIND), scale=10.0, abstain_below=0.1).label([comparison()])[0]
    assert label.failure is not None
    assert label.failure.kind == "abstained"
    assert (label.prob_a, len(label.verdicts)) == (None, 1)


def test_the_random_judge_is_uniform_and_knows_nothing() -> None:
    used = judge(None, only(KIND), method="random")
    pairs = [comparison(f"answer {n}", "no") for n in range(2000)]
    found = [label.prob_a for label in used.label(pairs)]
    assert kstest(found, "uniform").pvalue > 1e-3
    assert found == [label.prob_a for label in used.label(pairs)]
    assert found != [label.prob_a for label in judge(None, only(KIND), method="random", seed=1).label(pairs)]


def test_a_method_that_needs_a_model_says_so() -> None:
    with pytest.raises(ConfigError, match="needs a model"):
        judge(None, method="pairwise")


def test_judging_again_through_the_cache_asks_nothing(tmp_path: Path) -> None:
    model = Recorder(MARGINS)
    first = judge(CachedModel(model, tmp_path / "judge.sqlite")).label([comparison()])
    asked = len(model.scores)
    again = judge(CachedModel(model, tmp_path / "judge.sqlite")).label([comparison()])
    assert again == first
    assert len(model.scores) == asked > 0


TABLE = {  # the run's own judge, by contrast: a margin of 0.35
    ("You are kind.", "yes my friend"): (-1.0,),
    ("You are cruel.", "yes my friend"): (-1.25,),
    ("You are kind.", "no"): (-2.0,),
    ("You are cruel.", "no"): (-1.9,),
}


OWN = logistic(0.35)


LETTERS = [("yes my friend", (-2.0, -1.0))]  # always the letter B, whatever the order: one half


RATINGS = [("yes my", (0.0, *[-50.0] * 8)), ("no", (*[-50.0] * 8, 0.0))]
"""A 9 for "no" and a 1 for the other answer."""


def label(own: Recorder, beside: dict[str, Recorder], *panel: dict[str, Any], **fields: Any) -> PreferenceLabel:
    config = JudgeConfig.model_validate({"scale": 1.0, "panel": list(panel), **fields})
    (found,) = Judge(config, only(KIND), models=[own, *beside.values()], seed=0).label([comparison()])
    return found


def test_members_vote_on_each_principle_by_weight() -> None:
    found = label(
        Recorder(TABLE),
        {"letters": Recorder(letters=LETTERS), "points": Recorder(letters=RATINGS)},
        {"name": "letters", "method": "pairwise", "weight": 2},
        {"name": "points", "method": "rating", "weight": 1},
    )
    assert [(v.member, v.method, v.order) for v in found.verdicts] == [
        ("", "contrast", "none"),
        ("letters", "pairwise", "ab"),
        ("letters", "pairwise", "ba"),
        ("points", "rating", "none"),
    ]
    assert found.prob_a == pytest.approx((OWN + 2 * 0.5 + logistic(-8.0)) / 4, abs=1e-6)
    assert found.consistency == pytest.approx(1 - (logistic(1.0) - logistic(-1.0)))
    assert len({verdict.id for verdict in found.verdicts}) == 4


def test_a_member_is_asked_as_its_own_table_says() -> None:
    panel = ({"name": "sharp", "method": "contrast", "scale": 0.1},)
    found = label(Recorder(TABLE), {"sharp": Recorder(TABLE)}, *panel)
    assert found.prob_a == pytest.approx((OWN + logistic(3.5)) / 2)


def test_a_member_that_cannot_answer_leaves_the_others_to_vote() -> None:
    found = label(Recorder(TABLE), {"mute": Recorder()}, {"name": "mute", "method": "pairwise"})
    assert found.prob_a == pytest.approx(OWN)
    assert [v.failure is None for v in found.verdicts] == [True, False, False]


def test_a_label_is_a_failure_where_no_member_can_answer() -> None:
    found = label(Recorder(), {"mute": Recorder()}, {"name": "mute", "method": "pairwise"})
    assert found.prob_a is None
    assert found.failure is not None
    assert found.failure.kind == "context_overflow"


def test_a_member_without_a_weight_is_not_counted() -> None:
    found = label(Recorder(TABLE), {"points": Recorder(letters=RATINGS)}, {"name": "points", "method": "rating"})
    config = JudgeConfig.model_validate({"scale": 1.0})
    alone = Judge(config, only(KIND), models=[Recorder()], seed=0).settle(comparison(), found.verdicts)
    assert alone.prob_a == pytest.approx(OWN)


def test_a_calibration_maps_the_vote_of_all() -> None:
    found = label(Recorder(TABLE), {"sharp": Recorder(TABLE)}, {"name": "sharp", "scale": 0.1})
    config = JudgeConfig.model_validate({"panel": [{"name": "sharp"}], "calibration": "temperature"})
    half = CalibrationMap("temperature", temperature=2.0)
    judge = Judge(config, only(KIND), models=[Recorder()] * 2, seed=0, calibration=half)
    assert found.prob_a is not None
    settled = judge.settle(comparison(), found.verdicts)
    assert settled.prob_a == pytest.approx(half(found.prob_a))
    assert settled.prob_a is not None
    assert 0.5 < settled.prob_a < found.prob_a
    assert judge.settling == Settling({"": 1.0, "sharp": 1.0}, None, half, 0.0)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"panel": [{"name": "a"}, {"name": "a"}]}, "two members of judge.panel are called 'a'"),
        ({"panel": [{"name": "a", "method": "random"}]}, "a coin has no vote"),
        ({"panel": [{"name": "a"}], "method": "random"}, "votes alone"),
        ({"panel": [{"method": "rating"}]}, "name"),
        ({"panel": [{"name": "a", "backend": "openai"}]}, "needs judge.source"),
        ({"panel": [{"name": "a", "wieght": 2}]}, "did you mean 'weight'"),
        ({"panel": [{"name": "a", "weight": 0}]}, "must be above 0"),
        (
            {
                "panel": [
                    {"name": n, "backend": "openai", "source": "m", "method": "rating", "base_url": f"http://{n}/v1"}
                    for n in "ab"
                ]
            },
            "'m' stands at two addresses",
        ),
    ],
)
def test_a_panel_that_cannot_sit_is_refused(fields: dict[str, Any], said: str) -> None:
    from rlaif.judge.load import parse

    with pytest.raises(ConfigError, match=said):
        parse({"judge": fields, "prompts": {"mine": {"source": "everyday"}}}, where="test")


def test_the_models_of_a_panel_are_opened_counted_and_closed_together(tmp_path: Path) -> None:
    rules = tmp_path / "rules.jsonl"
    rules.write_text('{"match": "x", "reply": "y"}\n')
    config = JudgeConfig.model_validate(
        {"backend": "scripted", "panel": [{"name": "other", "backend": "scripted", "source": str(rules)}]}
    )
    run = RunConfig.model_validate({"judge": config, "prompts": {"p": {"source": "everyday"}}})
    with opened_models(run, tmp_path / "cache") as models:
        judge = Judge(config, only(KIND), models=models, seed=0)
        assert (judge.name, models[1].name) == ("scripted + rules", "rules")
        judge.label([comparison()])
        judge.label([comparison()])
        assert judge.usage == Usage(calls=8, cached=8, prompt_tokens=judge.usage.prompt_tokens, scored_tokens=16)
        assert judge.fingerprint not in [model.fingerprint for model in models]
        judge.close()


# --- conversations ----------------------------------------------------------------------------------------------------

TURNS = (
    Message("system", "Be terse.\n\n{{ 7 * 7 }} stays."),
    Message("user", "One?\n> quoted\n\tand  blanks"),
    Message("assistant", "1\n\nAnswer (A):"),
    Message("user", "And <b>two</b>?  "),
)
SHOWN = """Conversation:
System:
> Be terse.
>
> {{ 7 * 7 }} stays.
Human:
> One?
> > quoted
> \tand  blanks
Assistant:
> 1
>
> Answer (A):
Human:
> And <b>two</b>?  """.replace("\n>\n", "\n> \n")
"""Every turn of the conversation, with nothing added but the marks of a quotation."""


@pytest.mark.parametrize("method", ["pairwise", "cot", "rating", "decision"])
def test_a_conversation_reaches_a_server_turn_by_turn_as_it_is(method: str) -> None:
    prompt = Prompt(TURNS)
    pair = Comparison(prompt, *(response(prompt, text) for text in ("yes", "no")))
    with serving(lambda *_: Answer({})) as server:
        model = client(server.url, max_retries=0, api="systemone" if method == "decision" else "chat")
        judge(model, only(KIND), method=method).label([pair])
        model.close()
    assert len(server.seen) == 2
    for body in server.bodies():
        shown = body["state"] if method == "decision" else next(m for m in body["messages"] if m["role"] == "user")
        text = shown if isinstance(shown, str) else shown["content"]
        assert text.startswith(f"{SHOWN}\n\n")


def test_a_conversation_reaches_contrast_as_the_very_turns() -> None:
    prompt = Prompt(TURNS)
    pair = Comparison(prompt, *(response(prompt, text) for text in ("yes", "no")))
    model = Listener()
    judge(model, only(KIND), method="contrast").label([pair])
    assert len(model.asked_for(ScoreRequest)) == 4
    for request in model.asked_for(ScoreRequest):
        system, *others = request.messages
        turns = [Message(turn.role, turn.content.strip()) for turn in TURNS[1:]]  # a template trims turns
        assert others[:-1] == turns[:-1]
        ours = system.content.removesuffix(TURNS[0].content).strip()
        assert others[-1] == Message("user", f"{TURNS[-1].content.lstrip()}\n\n{ours}"), (
            "behind the question the reminder"
        )
        assert TURNS[0].content in system.content
