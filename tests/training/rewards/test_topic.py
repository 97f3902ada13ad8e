"""`on_topic`: nats that a response tells of its prompt, by the reference policy, and what PPO makes of them."""

from __future__ import annotations

import math
from pathlib import Path
from shutil import copytree

import pytest
import torch

import rlaif
from rlaif.config import PpoConfig
from rlaif.core.errors import ConfigError
from rlaif.core.files import JsonlFile
from rlaif.core.records import Message, Prompt, Response
from rlaif.lm.local.load import encode_chat, encode_text, load_tokenizer, resolve
from rlaif.lm.protocol import ScoreRequest
from rlaif.training.ppo.advantages import values_of_reward
from rlaif.training.ppo.formulas import group_mean
from rlaif.training.ppo.step import PpoTrainer
from rlaif.training.rewards.sources import Rewards
from rlaif.training.rewards.topic import new_tokens, other_prompts, topic_scores
from tests.output import done
from tests.training.tiny_ppo import PROMPTS, SMALL, chosen, disturb, policy_model, reward_folder

ONE, TWO, THREE = (Prompt.of_text(text, slice="a") for text in ("One?", "Two?", "Three?"))
ALONE = Prompt.of_text("Alone?", slice="b")


def on_topic(source: Path, **table: object) -> PpoTrainer:
    """PPO against `on_topic` alone, with a policy that has moved from its reference."""
    config = PpoConfig(reward="on_topic", **{**SMALL, "temperature": 0.7, "missing_eos_penalty": 0.0, **table})  # type: ignore[arg-type]
    model = policy_model(source, **config.model_dump(exclude={"reward"}))
    rewards = Rewards.of_config(config, no_judge).comparing(PROMPTS, model.loaded.tokenizer)
    disturb(model)
    return PpoTrainer(model, config, seed=3, rewards=rewards)


def no_judge() -> object:
    raise AssertionError("no judge is among the sources")


def test_the_next_prompt_of_the_slice_is_the_other_one() -> None:
    found = other_prompts([ONE, ALONE, TWO, ONE, THREE])
    assert found == {ONE.id: TWO, TWO.id: THREE, THREE.id: ONE, ALONE.id: TWO}
    assert other_prompts([ONE, ALONE]) == {ONE.id: ALONE, ALONE.id: ONE}
    with pytest.raises(ConfigError, match="one alone"):
        other_prompts([ONE, ONE])


def test_scores_by_hand() -> None:
    own = torch.tensor([[-1.0, -1.0, -9.0], [-1.0, -2.0, -3.0], [-5.0, -5.0, -5.0], [-1.0, -1.0, math.nan]])
    other = torch.tensor([[-2.0, -3.0, 0.0], [-21.0, -2.0, -3.0], [-1.0, -1.0, -1.0], [-1.0, -1.0, -1.0]])
    mask = torch.tensor([[True, True, False], [True] * 3, [True] * 3, [True] * 3])
    scores = topic_scores(own, other, mask, enough=10.0)
    assert scores[:3, -1].tolist() == pytest.approx([-0.7, 0.0, -1.0])  # 3 of 10 nats; more than enough; under nothing
    assert math.isnan(scores[3, -1])  # which PPO stops at
    assert scores[0].tolist() == pytest.approx([-0.9, -0.7, -0.7])  # token by token; padding changes nothing


def test_tokens_that_the_prompt_contains_do_not_count() -> None:
    prompt = Prompt((Message("system", "Be kind."), Message("user", "Fold a paper boat?\n")))
    pieces = [" Paper", "BOAT", " boats", "\n", " kind", " crease", "a", "b c"]
    found = new_tokens([prompt, ONE], [range(len(pieces)), (5,)], lambda token: pieces[token])
    assert found[0].tolist() == [False, False, True, False, False, True, False, True]
    assert found[1].tolist() == [True] + [False] * 7  # the rest is padding


def test_ppo_measures_it_by_the_reference_after_the_other_prompt(tiny_model: Path) -> None:
    work = on_topic(tiny_model, on_topic_nats=20.0)
    rollouts = work.sampler.sample(chosen(work), 0)
    batch, _ = work.measure(rollouts)
    tokenizer, lm, others = work.model.loaded.tokenizer, work.model.loaded.model, other_prompts(PROMPTS)

    @torch.no_grad()
    def logprob(own: Prompt, prompt: Prompt, response: tuple[int, ...]) -> float:
        ids = [*encode_chat(tokenizer, prompt.messages), *response]
        with work.model.using(None):
            logits = lm(torch.tensor([ids])).logits[0].double() / 0.7
        steps = torch.log_softmax(logits, -1)[-len(response) - 1 : -1]
        said = "".join(message.content for message in own.messages).lower()
        new = [token for token in response if tokenizer.decode([token], skip_special_tokens=True).strip() not in said]
        return float(sum(step[token] for step, token in zip(steps, response, strict=True) if token in new))

    for row, (prompt, response) in enumerate(zip(rollouts.prompts, rollouts.responses, strict=True)):
        nats = logprob(prompt, prompt, response) - logprob(prompt, others[prompt.id], response)
        score = float(batch.parts["score_on_topic"][row])
        assert score == pytest.approx(min(max(nats / 20, 0.0), 1.0) - 1.0, abs=1e-3)
        assert float(batch.scores[row]) == pytest.approx(score)
    assert len({round(float(score), 3) for score in batch.parts["score_on_topic"]}) > 2  # not all at one end
    few, _ = work.measure(rollouts.only([5, 2]))  # whoever stands beside a response changes nothing
    assert few.parts["score_on_topic"].tolist() == pytest.approx(
        batch.parts["score_on_topic"][[5, 2]].tolist(), abs=1e-5
    )


def test_the_critic_knows_what_was_told_so_far(tmp_path: Path, tiny_model: Path) -> None:
    """With a reward model of weight 0 the score is `on_topic` alone, of which its part so far is all that is known."""
    table = {
        **SMALL,
        "value": "reward",
        "batch_size": 96,
        "samples_per_prompt": 16,
        "baseline": "prompt",
        "kl_coef": 0.0,
        "lam": 1.0,
    }
    config = PpoConfig(
        reward=[{"source": "model", "weight": 0.0}, "on_topic"],
        on_topic_nats=20.0,
        **{**table, "missing_eos_penalty": 0.0},
    )  # type: ignore[arg-type]
    folder = reward_folder(tmp_path, tiny_model)
    model = policy_model(tiny_model, rewards=[folder], **{**config.model_dump(), "reward": config.reward})
    rewards = Rewards.of_config(config, no_judge).comparing(PROMPTS, model.loaded.tokenizer)
    disturb(model)
    work = PpoTrainer(model, config, seed=3, rewards=rewards)
    rollouts = work.sampler.sample(chosen(work), 0)
    batch, _ = work.measure(rollouts)
    assert not batch.values[:, 0].any()  # nothing is known before the first token
    # The objective stays: less its prompt's mean, what the whole response scores.
    wanted = batch.scores - group_mean(batch.scores, rollouts.groups)
    torch.testing.assert_close(batch.returns[:, 0], wanted, rtol=0, atol=1e-5)
    _, so_far = work.forward.scores(rollouts)
    by_model = values_of_reward(so_far[:, :, None], wanted, batch.response_mask, rollouts.groups)
    left = [(wanted[:, None] - values)[:, 1:][batch.response_mask[:, 1:]].var() for values in (batch.values, by_model)]
    assert left[0] < 0.9 * left[1]


def test_it_is_no_function_by_itself() -> None:
    with pytest.raises(ConfigError, match="measured by the policy"):
        rlaif.load_reward(source="on_topic")
    with pytest.raises(ValueError, match="neither model, judge, on_topic nor"):
        PpoConfig(reward="ontopic")
    with pytest.raises(ValueError, match="stands there twice"):
        PpoConfig(reward=["on_topic", {"source": "on_topic", "name": "again"}])


def test_a_run_trains_on_it_and_the_best_of_n_is_chosen_by_it(finished: Path, tmp_path: Path) -> None:
    folder, changed = copytree(finished / "runs" / "my", tmp_path / "my"), []
    for setting in ("ppo.reward=[model, on_topic]", "ppo.on_topic_nats=0.5", "ppo.missing_eos_penalty=0"):
        changed += ["--set", setting]
    done("ppo", "--run", folder, "--limit", "4", "--force", *changed)
    run = rlaif.open_run(folder)
    assert {"score_model", "score_on_topic", "score_on_topic_std"} <= run.metrics()[0].keys()
    weights = ["--set", "ppo.reward=[{source: model, weight: 0}, on_topic]", "--set", "evaluate.best_of=3"]
    done("ppo", "--run", folder, "--limit", "4", "--force", *changed, *weights)
    done("evaluate", "--run", folder, "--limit", "4", *changed, *weights)
    prompts = {prompt.id: prompt for prompt in run.prompts("held_out")}
    others, policy = other_prompts(list(prompts.values())), run.policy("sft")
    tokenizer = load_tokenizer(resolve(run.config.model.source)[0])

    def nats(answer: Response) -> float:
        own = prompts[answer.prompt_id]
        asked = [ScoreRequest(p.messages, answer.text, temperature=1.0) for p in (own, others[own.id])]
        one, other = (found.token_logprobs or () for found in policy.ask(asked))
        pieces = [tokenizer.decode([token]).strip().lower() for token in encode_text(tokenizer, answer.text)]
        told = zip(pieces, one, other, strict=True)
        return min(max(sum(a - b for piece, a, b in told if piece not in own.text.lower()) / 0.5, 0.0), 1.0)

    drawn = JsonlFile(folder / "evaluate" / "best_of.jsonl", Response).read()
    best = [answer for answer in run.responses() if answer.model == "best-of-3"]
    assert len(best) == len({answer.prompt_id for answer in drawn}) > 2
    for answer in best:
        same = [nats(other) for other in drawn if other.prompt_id == answer.prompt_id]
        assert nats(answer) == pytest.approx(max(same), abs=1e-3)
