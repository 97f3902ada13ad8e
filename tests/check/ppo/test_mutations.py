"""Every check fails on a defect planted in the code that it is about: a check that cannot fail checks nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from peft.tuners.lora import Linear

from rlaif.check.ppo import batches, rewards, suite
from rlaif.check.ppo.subject import Check
from rlaif.lm.local import causal_lm as decode
from rlaif.training.ppo import advantages as estimators
from rlaif.training.ppo import formulas as objectives
from rlaif.training.ppo import local_sampler as sampling
from rlaif.training.ppo import off_policy
from rlaif.training.ppo import policy_model as adapters
from rlaif.training.ppo import rollout as rollouts
from rlaif.training.ppo import step as ppo_step
from rlaif.training.ppo.checkpoint import TrainingState
from rlaif.training.ppo.formulas import KlController
from rlaif.training.ppo.policy_model import PolicyModel
from rlaif.training.ppo.rollout import Rollouts
from rlaif.training.ppo.step import PpoTrainer
from rlaif.training.rewards import model as reward_model
from rlaif.training.rewards.function import FunctionReward
from rlaif.training.rewards.sources import Rewards, WeightedReward
from tests.check.ppo.subjects import subject
from tests.tiny import make_tiny_model
from tests.training.tiny_ppo import reward_folder

Patch = pytest.MonkeyPatch
Plant = Callable[[Patch], None]
PLANTED: list[tuple[str, Plant]] = []


def breaks(*checks: str) -> Callable[[Plant], Plant]:
    """Registers a defect with the checks that must find it."""

    def register(plant: Plant) -> Plant:
        PLANTED.extend((check, plant) for check in checks)
        return plant

    return register


def wrapped(patch: Patch, owner: Any, name: str, around: Callable[..., Any]) -> None:
    """Puts `around(original, *arguments)` in the place of a function."""
    original = getattr(owner, name)
    patch.setattr(owner, name, lambda *given, **named: around(original, *given, **named))


# The start


@breaks("sft-model", "sampler")
def temperature_forgotten_in_the_logprobs(patch: Patch) -> None:
    wrapped(patch, PolicyModel, "logits", lambda f, self, flat: f(self, flat) * self.temperature)


@breaks("sft-model")
def logprobs_of_the_token_before(patch: Patch) -> None:
    wrapped(patch, PolicyModel, "response_states", lambda f, self, rows: f(self, rows).roll(1, 0))


@breaks("sft-model")
def responses_encoded_anew_from_their_text(patch: Patch) -> None:
    from tests.tiny import tiny_tokenizer

    def around(f: Any, self: Rollouts, chosen: Any = None) -> Any:
        tokenizer = tiny_tokenizer()
        rows = f(self, chosen)
        again = [(p, tokenizer.encode(tokenizer.decode(r), add_special_tokens=False)) for p, r in rows]
        return [(p, [*n, *[0] * len(r)][: len(r)]) for (p, n), (_, r) in zip(again, rows, strict=True)]

    wrapped(patch, Rollouts, "rows", around)


@breaks("sft-model", "metrics")
def entropy_over_the_padding(patch: Patch) -> None:
    patch.setattr(ppo_step, "masked_mean", lambda values, mask: values.mean())


@breaks("first-update")
def adapters_that_start_with_an_effect(patch: Patch) -> None:
    def around(f: Any, table: Any) -> Any:
        config = f(table)
        config.init_lora_weights = False
        return config

    wrapped(patch, adapters, "lora_config", around)


@breaks("first-update")
def another_temperature_in_training(patch: Patch) -> None:
    wrapped(patch, PolicyModel, "logprobs_and_entropies", lambda f, self, flat, rows: f(self, flat * 1.1, rows))


@breaks("dropout")
def dropout_in_the_adapters(patch: Patch) -> None:
    def around(f: Any, table: Any) -> Any:
        config = f(table)
        config.lora_dropout = 0.1
        return config

    def switch(f: Any, self: PolicyModel, adapter: Any) -> None:
        f(self, adapter)
        self.peft.train()

    wrapped(patch, adapters, "lora_config", around)
    wrapped(patch, PolicyModel, "_switch", switch)


@breaks("precision")
def logits_in_bfloat16(patch: Patch) -> None:
    wrapped(patch, PolicyModel, "logits", lambda f, self, flat: f(self, flat).bfloat16())


@breaks("merged-weights", "sampler")
def merged_with_the_wrong_scale(patch: Patch) -> None:
    wrapped(patch, Linear, "get_delta_weight", lambda f, self, name: f(self, name) * 0.5)


@breaks("merged-weights", "reference-stays")
def merged_weights_left_behind(patch: Patch) -> None:
    @contextmanager
    def merged(self: PolicyModel) -> Iterator[Any]:
        with torch.no_grad():
            for layer in self.layers:
                layer.get_base_layer().weight.data += layer.get_delta_weight("policy")
        with self.using(None):
            yield self.lm

    patch.setattr(PolicyModel, "merged", merged)


@breaks("sampler")
def only_the_likeliest_tokens_are_sampled(patch: Patch) -> None:
    def around(f: Any, logits: Any, uniform: Any, temperature: float) -> Any:
        least = logits.topk(50).values[:, -1:]
        return f(logits.masked_fill(logits < least, -torch.inf), uniform, temperature)

    wrapped(patch, decode, "pick", around)


@breaks("sampler")
def sampled_at_temperature_1(patch: Patch) -> None:
    wrapped(patch, sampling, "sample", lambda f, *a, **k: f(*a, **{**k, "temperature": 1.0}))


@breaks("sampler")
def padding_seen_by_the_sampler(patch: Patch) -> None:
    def around(f: Any, rows: Any, pad: int, device: Any) -> Any:
        ids, mask = f(rows, pad, device)
        return ids, torch.ones_like(mask)

    wrapped(patch, decode, "left_pad", around)


@breaks("end-token")
def end_tokens_cut_off(patch: Patch) -> None:
    def around(f: Any, *given: Any, **named: Any) -> Any:
        rows = f(*given, **named)
        kept = [len(r.ids) - (len(r.ids) > 1 and r.finish == "stop") for r in rows]
        return [decode.Sampled(r.ids[:n], r.finish, r.logprobs[:n]) for r, n in zip(rows, kept, strict=True)]

    wrapped(patch, sampling, "sample", around)


@breaks("end-token")
def end_tokens_looked_for_in_the_prompt(patch: Patch) -> None:
    def around(f: Any, lm: Any, prompts: Any, **named: Any) -> Any:
        rows = f(lm, prompts, **named)
        ended = [bool(set(prompt) & set(named["ends"])) for prompt in prompts]
        return [decode.Sampled(r.ids, "stop" if e else r.finish, r.logprobs) for r, e in zip(rows, ended, strict=True)]

    wrapped(patch, sampling, "sample", around)


# Masks and batches


@breaks("response-mask")
def mask_from_ids_that_are_not_pad(patch: Patch) -> None:
    def mask(self: Rollouts) -> Any:
        pad, width = 2, max(map(len, self.responses))  # pad is the end token of the tiny tokenizer
        return torch.tensor([[i != pad for i in [*r, *[pad] * (width - len(r))]] for r in self.responses])

    patch.setattr(Rollouts, "mask", property(mask))


@breaks("response-mask")
def mask_one_token_too_long(patch: Patch) -> None:
    def mask(self: Rollouts) -> Any:
        lengths = torch.tensor([len(r) for r in self.responses])
        return torch.arange(int(lengths.max()))[None] <= lengths[:, None]

    patch.setattr(Rollouts, "mask", property(mask))


@breaks("company")
def values_less_the_mean_of_their_batch(patch: Patch) -> None:
    wrapped(patch, PolicyModel, "values", lambda f, self, flat: f(self, flat) - f(self, flat).mean())


@breaks("company", "reward-model")
def scores_read_off_another_response(patch: Patch) -> None:
    def beside(f: Any, lm: Any, rows: Any) -> Any:
        found = f(lm, rows)
        return [*found[1:], found[0]]

    wrapped(patch, adapters, "response_states", beside)


@breaks("accumulation")
def losses_averaged_within_a_micro_batch(patch: Patch) -> None:
    wrapped(patch, ppo_step, "policy_loss", lambda f, new, *rest: f(new, *rest) / len(new))


@breaks("accumulation")
def whitened_over_the_padding(patch: Patch) -> None:
    patch.setattr(ppo_step, "whiten", lambda values, mask: (values - values.mean()) / values.std())


@breaks("metrics")
def explained_variance_over_the_padding(patch: Patch) -> None:
    wrapped(patch, rollouts, "explained_variance", lambda f, v, r, mask: f(v, r, torch.ones_like(mask)))


@breaks("metrics")
def kl_over_the_padding(patch: Patch) -> None:
    def around(f: Any, batch: Any) -> Any:
        return {**f(batch), "kl": float((batch.logprobs - batch.ref_logprobs).mean())}

    wrapped(patch, batches, "batch_metrics", around)


# Rewards


@breaks("reward-place")
def kl_rewarded(patch: Patch) -> None:
    wrapped(patch, ppo_step, "shaped_rewards", lambda f, s, new, ref, mask, coef: f(s, ref, new, mask, coef))


@breaks("reward-place")
def score_on_the_token_before_the_end(patch: Patch) -> None:
    def around(f: Any, scores: Any, *rest: Any) -> Any:
        moved = f(torch.zeros_like(scores), *rest)
        last = (rest[2].sum(1) - 2).clamp(min=0)
        moved[torch.arange(len(scores)), last] += scores
        return moved

    wrapped(patch, ppo_step, "shaped_rewards", around)


@breaks("reward-place")
def no_penalty_for_a_missing_end(patch: Patch) -> None:
    def around(f: Any, self: PpoTrainer, *rest: Any) -> Any:
        self.config = self.config.model_copy(update={"missing_eos_penalty": 0.0})
        return f(self, *rest)

    wrapped(patch, PpoTrainer, "shaped", around)


@breaks("advantages")
def advantages_taken_from_beyond_the_end(patch: Patch) -> None:
    def around(f: Any, rewards: Any, values: Any, mask: Any, **named: Any) -> Any:
        found, returns = f(rewards, values, torch.ones_like(mask), **named)
        return torch.where(mask, found, 0.0), torch.where(mask, returns, 0.0)

    wrapped(patch, estimators, "gae", around)


@breaks("advantages")
def lambda_ignored(patch: Patch) -> None:
    wrapped(patch, estimators, "gae", lambda f, *given, **named: f(*given, **{**named, "lam": 1.0}))


@breaks("whitening")
def whitening_that_adds_the_mean_back(patch: Patch) -> None:
    patch.setattr(ppo_step, "whiten", objectives.rescale)


@breaks("importance-weights")
def importance_weights_the_wrong_way_round(patch: Patch) -> None:
    def around(f: Any, logprobs: Any, sampler: Any, mask: Any, cap: float) -> Any:
        return (1 / f(logprobs, sampler, mask, 1e9)).clamp(max=cap)

    wrapped(patch, off_policy, "importance_weights", around)


@breaks("importance-weights")
def importance_weights_without_a_cap(patch: Patch) -> None:
    wrapped(patch, off_policy, "importance_weights", lambda f, new, old, mask, cap: f(new, old, mask, 1e9))


@breaks("importance-weights")
def importance_weights_left_out_of_the_loss(patch: Patch) -> None:
    def around(f: Any, self: PpoTrainer, batch: Any, rows: Any) -> Any:
        return f(self, batch, rows) / batch.importance[rows]

    wrapped(patch, PpoTrainer, "advantages", around)


@breaks("kl-controller")
def kl_controller_the_wrong_way_round(patch: Patch) -> None:
    wrapped(patch, KlController, "update", lambda f, self, kl, n: f(self, 2 * (self.target or 0) - kl, n))


@breaks("reward-model")
def reward_head_drawn_anew(patch: Patch) -> None:
    def around(f: Any, folder: Path) -> Any:
        head = f(folder)
        torch.nn.init.normal_(head.head.weight, std=0.1)
        return head

    wrapped(patch, reward_model, "load_head", around)


@breaks("reward-model")
def normalisation_lost(patch: Patch) -> None:
    wrapped(patch, adapters, "load_head", lambda f, folder: f(folder)._replace(mean=0.0, std=1.0))


@breaks("reward-critic")
def critic_that_sees_the_token_itself(patch: Patch) -> None:
    wrapped(patch, reward_model.RewardHead, "so_far", lambda f, self, states, tokens: f(self, states[1:], tokens))


@breaks("reward-critic")
def critic_fitted_to_its_own_score(patch: Patch) -> None:
    """One slope for all, of least squares over all prompts."""

    def around(f: Any, so_far: Any, scores: Any, mask: Any, groups: Any) -> Any:
        others = f(
            so_far.repeat(2, 1, 1), scores.repeat(2), mask.repeat(2, 1), torch.cat([groups, groups + groups.max() + 1])
        )
        return others[: len(scores)]

    for place in (ppo_step, rewards):
        wrapped(patch, place, "values_of_reward", around)


# Updates


@breaks("reference-stays")
def reference_with_the_adapters_on(patch: Patch) -> None:
    wrapped(patch, PolicyModel, "_switch", lambda f, self, adapter: f(self, adapter or "policy"))


@breaks("trained-weights")
def critic_frozen(patch: Patch) -> None:
    wrapped(patch, PolicyModel, "values", lambda f, self, flat: f(self, flat).detach().requires_grad_())


@breaks("trained-weights")
def policy_trained_in_the_warm_up(patch: Patch) -> None:
    wrapped(patch, PpoTrainer, "gradients", lambda f, self, batch, rows, warmup: f(self, batch, rows, warmup=False))


@breaks("losses")
def values_measured_against_nothing(patch: Patch) -> None:
    def without_target(values: Any, old: Any, returns: Any, reach: float) -> Any:
        cut = old + (values - old).clamp(-reach, reach)
        return 0.5 * torch.maximum(values**2, (cut - returns) ** 2)

    patch.setattr(ppo_step, "value_loss", without_target)


@breaks("losses")
def values_clipped_around_0(patch: Patch) -> None:
    wrapped(
        patch, ppo_step, "value_loss", lambda f, v, old, returns, reach: f(v, torch.zeros_like(old), returns, reach)
    )


@breaks("losses")
def the_smaller_of_two_policy_losses(patch: Patch) -> None:
    wrapped(patch, ppo_step, "policy_loss", lambda f, new, old, wanted, reach: -f(new, old, -wanted, reach))


@breaks("losses")
def ratios_never_clipped(patch: Patch) -> None:
    wrapped(patch, ppo_step, "policy_loss", lambda f, new, old, wanted, reach: f(new, old, wanted, 1e9))


@breaks("optimiser")
def adam_with_its_usual_eps(patch: Patch) -> None:
    wrapped(patch, torch.optim, "AdamW", lambda f, *given, **named: f(*given, **{**named, "eps": 1e-8}))


@breaks("optimiser")
def gradient_never_cut(patch: Patch) -> None:
    wrapped(patch, torch.nn.utils, "clip_grad_norm_", lambda f, parameters, longest: f(parameters, 1e9))


@breaks("optimiser")
def a_step_for_every_micro_batch(patch: Patch) -> None:
    def around(f: Any, self: PpoTrainer, batch: Any, rows: Any, warmup: bool) -> Any:
        found = f(self, batch, rows, warmup=warmup)
        self.state.optimiser.step()
        return found

    wrapped(patch, PpoTrainer, "gradients", around)


@breaks("mini-batches")
def the_last_response_dropped(patch: Patch) -> None:
    wrapped(patch, PpoTrainer, "plan", lambda f, self, *rest: [part[:-1] for part in f(self, *rest)])


@breaks("mini-batches")
def samples_of_a_prompt_parted(patch: Patch) -> None:
    def around(f: Any, self: PpoTrainer, size: int, step: int) -> Any:
        return [list(range(part, size, 2)) for _ in range(2) for part in range(2)]

    wrapped(patch, PpoTrainer, "plan", around)


@breaks("exploding-update", "resume")
def weights_not_put_back(patch: Patch) -> None:
    patch.setattr(TrainingState, "take_up", lambda self, state: None)


@breaks("not-a-number")
def nan_let_through(patch: Patch) -> None:
    patch.setattr(ppo_step.math, "isfinite", lambda value: True)


@breaks("resume")
def moments_of_adam_forgotten(patch: Patch) -> None:
    patch.setattr(TrainingState, "take_up", lambda self, state: self.model.load_adapter_state(state["adapters"]))


@breaks("resume")
def kl_coefficient_forgotten(patch: Patch) -> None:
    def around(f: Any, self: TrainingState, folder: Path) -> int:
        before = self.kl.coefficient
        step = int(f(self, folder))
        self.kl.coefficient = before
        return step

    wrapped(patch, TrainingState, "restore", around)


def check_called(name: str) -> Check:
    return next(check for check in suite.CHECKS if suite.name_of(check) == name)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A tiny model and a reward model for it."""
    root = tmp_path_factory.mktemp("mutations")
    source = make_tiny_model(root / "model", layers=1, hidden=32)
    return source, reward_folder(root, source)


@pytest.mark.parametrize(("name", "plant"), PLANTED, ids=[f"{name}-{plant.__name__}" for name, plant in PLANTED])
def test_a_planted_defect_is_found(
    sources: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, name: str, plant: Plant
) -> None:
    source, reward = sources
    plant(monkeypatch)
    tried = subject(source, reward=reward, samples_per_prompt=2)
    found = suite.outcome(check_called(name), tried)
    assert not found.ok, found


@pytest.mark.parametrize(
    ("algorithm", "name"), [("rloo", "others_mean"), ("grpo", "group_mean"), ("grpo", "group_std")]
)
def test_a_baseline_or_scale_that_is_another_is_found(
    sources: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, algorithm: str, name: str
) -> None:
    wrapped(monkeypatch, estimators, name, lambda f, values, groups: f(values, torch.arange(len(groups))))
    found = suite.outcome(check_called("advantages"), subject(sources[0], algorithm=algorithm, samples_per_prompt=2))
    assert not found.ok, found


def test_a_reward_that_depends_on_the_order_is_found(sources: tuple[Path, Path]) -> None:
    tried = subject(sources[0])
    tried.rewards = Rewards.of_function(lambda prompts, responses: range(len(responses)))
    found = suite.outcome(check_called("reward-source"), tried)
    assert not found.ok
    assert "in another order" in found.place


def test_an_order_dependent_source_behind_another_is_found_by_its_name(sources: tuple[Path, Path]) -> None:
    """Its weight is too small to be seen in the sum."""
    tried = subject(sources[0])
    places = FunctionReward(lambda responses: range(len(responses)), "places")
    tried.rewards = Rewards((*tried.rewards.sources, WeightedReward("places", places, 1e-9)))
    found = suite.outcome(check_called("reward-source"), tried)
    assert not found.ok
    assert "score_places in another order" in found.place


@pytest.mark.parametrize("swapped", [True, False])
def test_members_of_an_ensemble_that_are_mixed_up_are_found(
    sources: tuple[Path, Path], tmp_path: Path, swapped: bool
) -> None:
    source, reward = sources
    other = shutil.copytree(reward, tmp_path / "other")
    constants = json.loads((other / "reward.json").read_text())
    (other / "reward.json").write_text(json.dumps({**constants, "mean": 0.9}))
    tried = subject(source, reward=reward, more=[other])
    if swapped:
        tried.model.members = dict(zip(tried.model.members, reversed(tried.model.members.values()), strict=True))
    assert suite.outcome(check_called("reward-model"), tried).ok is not swapped


def test_every_check_has_a_planted_defect() -> None:
    assert {name for name, _ in PLANTED} | {"reward-source"} == {suite.name_of(check) for check in suite.CHECKS}
