"""One base, many adapters: nothing of one may reach another, and the reference never moves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rlaif.core.errors import ModelError
from rlaif.lm.local.causal_lm import CausalLM
from rlaif.lm.local.load import LoadedModel, encode_chat, encode_text, load_model
from rlaif.training.ppo import policy_model as adapters
from rlaif.training.ppo.policy_model import PolicyModel, Row
from rlaif.training.rewards.model import RewardModel
from tests.tiny import make_tiny_model, tiny_tokenizer
from tests.training.contexts import prompt
from tests.training.tiny_ppo import disturb, model_config, policy_model, ppo_config, reward_folder

TEXTS = ["kind bread", "No.", "Listen, be kind, and ask what would help."]


def rows(loaded: LoadedModel) -> list[Row]:
    """Three prompts and responses of different lengths; the prompts hold end tokens, two responses end with one."""
    tokenizer = loaded.tokenizer
    answers = [encode_text(tokenizer, text) for text in TEXTS]
    asked = [encode_chat(tokenizer, prompt(f"Question {i} " * (i + 1)).messages) for i in range(3)]
    return [
        (asked[0], [*answers[0], tokenizer.eos_token_id]),
        (asked[1], answers[1]),
        (asked[2], [*answers[2], tokenizer.eos_token_id]),
    ]


@torch.no_grad()
def logprobs(model: PolicyModel, which: Any, given: list[Row]) -> Tensor:
    with model.using(which):
        return model.logprobs(model.response_states(given), given)


@torch.no_grad()
def plain_logprobs(loaded: LoadedModel, given: list[Row]) -> Tensor:
    """Of the model itself, with no adapter and no padding: its own logits, one row at a time."""
    parts = []
    for asked, answer in given:
        logits = loaded.model(input_ids=torch.tensor([[*asked, *answer]])).logits[0, len(asked) - 1 : -1].float()
        parts.append(logits.log_softmax(1)[torch.arange(len(answer)), torch.tensor(answer)])
    return torch.cat(parts)


@pytest.mark.parametrize("arch", ["llama", "qwen2", "gpt2", "gpt_neox"])
@pytest.mark.parametrize("value", ["adapter", "trunk"])
def test_adapters_off_is_the_sft_model_whatever_was_trained(tmp_path: Path, arch: Any, value: Any) -> None:
    make_tiny_model(tmp_path, arch)
    fresh = load_model(model_config(tmp_path))
    given = rows(fresh)
    wanted = plain_logprobs(fresh, given)
    lm = CausalLM(fresh.model)

    model = policy_model(tmp_path, value=value)
    before = logprobs(model, None, given)
    torch.testing.assert_close(before, wanted, rtol=0, atol=2e-5)  # padded together against one by one
    assert torch.equal(logprobs(model, "policy", given), before)  # a fresh adapter changes nothing

    disturb(model)
    assert (logprobs(model, "policy", given) - before).abs().max() > 0.1
    assert torch.equal(logprobs(model, None, given), before)
    ids = torch.tensor([given[2][0]])
    with torch.no_grad(), model.using(None):
        assert torch.equal(model.lm.states(input_ids=ids), lm.states(input_ids=ids))


@pytest.mark.parametrize("arch", ["llama", "gpt2", "gpt_neox"])
def test_merged_weights_are_the_policy_and_are_taken_back_to_the_last_bit(tmp_path: Path, arch: Any) -> None:
    model = policy_model(make_tiny_model(tmp_path, arch))
    disturb(model)
    given = rows(model.loaded)
    wanted, reference = logprobs(model, "policy", given), logprobs(model, None, given)
    weights = {name: parameter.clone() for name, parameter in model.peft.named_parameters()}
    with model.merged():
        torch.testing.assert_close(plain_logprobs(model.loaded, given), wanted, rtol=0, atol=1e-4)
        assert (wanted - reference).abs().max() > 0.1
    with pytest.raises(KeyboardInterrupt), model.merged():
        raise KeyboardInterrupt
    assert all(torch.equal(parameter, weights[name]) for name, parameter in model.peft.named_parameters())
    assert torch.equal(logprobs(model, None, given), reference)
    assert torch.equal(logprobs(model, "policy", given), wanted)


@pytest.mark.parametrize("arch", ["llama", "qwen3"])
def test_written_out_attention_is_the_usual_one_and_is_left_to_short_rows(tmp_path: Path, arch: Any) -> None:
    source = make_tiny_model(tmp_path, arch)
    used: list[str] = []
    found = []
    for longest in (adapters.SHORT, adapters.SHORT + 1):
        model = PolicyModel(load_model(model_config(source)), ppo_config(), seed=0, longest=longest)
        disturb(model)
        given = rows(model.loaded)
        given += [(given[2][0], [7, 8, 9])]  # packed behind one prompt
        layer = model.lm.trunk.layers[0].self_attn
        layer.register_forward_pre_hook(lambda module, _: used.append(module.config._attn_implementation))
        found.append(logprobs(model, "policy", given))
    short, usual = found
    assert used == ["eager", "sdpa"]
    assert model.lm.attention == "sdpa"
    assert not torch.equal(short, usual)
    torch.testing.assert_close(short, usual, rtol=0, atol=1e-4)


def test_attention_is_not_written_out_for_what_may_differ(tmp_path: Path) -> None:
    model = load_model(model_config(make_tiny_model(tmp_path, "gpt2")))
    assert PolicyModel(model, ppo_config(), seed=0, longest=8).attention != "eager"


def trained_flags(model: PolicyModel) -> set[str]:
    return {name for name, parameter in model.peft.named_parameters() if parameter.requires_grad}


def test_each_adapter_gets_its_own_gradient_and_no_other(tiny_model: Path, tmp_path: Path) -> None:
    model = policy_model(tiny_model, rewards=[reward_folder(tmp_path, tiny_model)])
    disturb(model)
    given = rows(model.loaded)
    wanted = set(model.trained) - {"value_head.weight", "value_head.bias"}
    assert len(wanted) == 2 * 2 * 14  # A and B of two adapters on 14 layers
    orders: list[list[Any]] = [
        ["policy", None, "value", "reward-1"],
        ["reward-1", None, "value", None],
        [None, "reward-1"],
    ]
    for order in orders:
        for which in order:
            with model.using(which):
                assert trained_flags(model) == wanted, which
    with model.merged():
        assert trained_flags(model) == wanted

    def with_gradient() -> set[str]:
        found = {name.split(".")[-2] for name, p in model.peft.named_parameters() if p.grad is not None}
        return found | {"value_head"} if model.value_head.weight.grad is not None else found

    with model.using("value"):
        model.values(model.response_states(given)).sum().backward()  # type: ignore[no-untyped-call]
    assert with_gradient() == {"value", "value_head"}
    values = {name: p.grad.clone() for name, p in model.trained.items() if p.grad is not None}
    assert all(bool(gradient.any()) for gradient in values.values())
    with model.using("policy"):
        model.logprobs(model.response_states(given), given).sum().backward()  # type: ignore[no-untyped-call]
    assert with_gradient() == {"value", "value_head", "policy"}
    assert all(torch.equal(model.trained[name].grad, gradient) for name, gradient in values.items())  # type: ignore[arg-type]


@pytest.mark.parametrize("arch", ["llama", "qwen2", "gpt2", "gpt_neox"])
def test_responses_behind_one_prompt_give_the_gradient_of_separate_rows(tmp_path: Path, arch: Any) -> None:
    make_tiny_model(tmp_path, arch)
    model = policy_model(tmp_path)
    disturb(model)
    (asked, answer), (other, second), (_, third) = rows(model.loaded)
    given = [(asked, answer), (asked, second), (other, third), (asked, third)]

    def gradient() -> tuple[Tensor, dict[str, Tensor]]:
        for parameter in model.trained.values():
            parameter.grad = None
        found = model.logprobs(model.response_states(given), given)
        (found * torch.arange(1, len(found) + 1)).sum().backward()  # type: ignore[no-untyped-call]
        return found.detach(), {n: p.grad for n, p in model.trained.items() if p.grad is not None}

    assert model.lm.packs
    together, packed = gradient()
    model.lm.packs = False
    alone, separate = gradient()
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-4)
    assert packed.keys() == separate.keys()
    for name in packed:
        torch.testing.assert_close(
            packed[name], separate[name], rtol=1e-3, atol=2e-3 * separate[name].abs().max().item()
        )


def test_the_policy_folder_loads_as_a_plain_model(tiny_model: Path, tmp_path: Path) -> None:
    sft = policy_model(tiny_model)
    disturb(sft, std=0.03)
    sft.save_policy(tmp_path / "sft")
    model = PolicyModel(load_model(model_config(tiny_model), (tmp_path / "sft",)), ppo_config(), seed=0)
    disturb(model)
    model.save_policy(tmp_path / "ppo")
    assert {path.name for path in (tmp_path / "ppo").iterdir()} >= {"adapter_config.json", "adapter_model.safetensors"}
    given = rows(model.loaded)
    merged = load_model(model_config(tiny_model), (tmp_path / "sft", tmp_path / "ppo"))
    torch.testing.assert_close(plain_logprobs(merged, given), logprobs(model, "policy", given), rtol=0, atol=1e-4)
    assert (logprobs(model, "policy", given) - logprobs(model, None, given)).abs().max() > 0.1


def test_the_reward_adapter_scores_as_the_reward_model_does(tiny_model: Path, tmp_path: Path) -> None:
    folder = reward_folder(tmp_path, tiny_model)
    alone = RewardModel.load(folder, load_model(model_config(tiny_model)))
    model = policy_model(tiny_model, rewards=[folder])
    asked = [prompt(f"Question {i} " * (i + 1)) for i in range(3)]
    wanted = alone.score_texts(asked, TEXTS, [True, False, True])
    given = rows(model.loaded)
    assert model.scores(given)[0].tolist() == pytest.approx(wanted, abs=1e-5)
    disturb(model)  # the policy's training does not reach it
    assert model.scores(given[1:])[0].tolist() == pytest.approx(wanted[1:], abs=1e-5)
    assert len({round(score, 3) for score in wanted}) == 3


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_an_end_token_that_the_reward_never_saw_scores_as_the_usual_one(
    tiny_model: Path, tmp_path: Path, pooling: Any
) -> None:
    folder = reward_folder(tmp_path, tiny_model)
    facts = json.loads((folder / "reward.json").read_text())
    (folder / "reward.json").write_text(json.dumps({**facts, "pooling": pooling}))
    loaded = load_model(model_config(tiny_model))
    usual, other = loaded.tokenizer.eos_token_id, loaded.tokenizer.convert_tokens_to_ids("<|endoftext|>")
    loaded.model.generation_config.eos_token_id = [usual, other]
    model = PolicyModel(loaded, ppo_config(), rewards=[folder], seed=0)
    asked = [(context, [*response[:-1], end]) for context, response in rows(loaded) for end in (usual, other)]
    scores = model.scores(asked)[0].tolist()
    assert scores[::2] == pytest.approx(scores[1::2], abs=1e-6)


def test_a_reward_model_that_reads_the_end_cannot_be_the_critic(tiny_model: Path, tmp_path: Path) -> None:
    folder = reward_folder(tmp_path, tiny_model)
    constants = folder / "reward.json"
    constants.write_text(constants.read_text().replace('"mean",', '"end",'))
    assert policy_model(tiny_model, rewards=[folder]).members["reward-1"].pooling == "end"
    with pytest.raises(ModelError, match=r"cannot be the critic[\s\S]*reward.pooling: mean"):
        policy_model(tiny_model, rewards=[folder], value="reward", baseline="batch")


def test_a_reward_model_of_other_weights_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    folder = reward_folder(tmp_path, tiny_model)
    other = make_tiny_model(tmp_path / "other", seed=5)
    with pytest.raises(ModelError, match="other weights"):
        policy_model(other, rewards=[folder])


def test_a_model_with_scaled_logits_is_refused(tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        "granite",
        vocab_size=len(tiny_tokenizer()),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        logits_scaling=8.0,
        initializer_range=0.3,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="linear map"):
        policy_model(tmp_path)


def test_losses_are_float32_on_bfloat16_weights(tiny_model: Path) -> None:
    model = policy_model(tiny_model, dtype="bfloat16")
    given = rows(model.loaded)
    assert {p.dtype for p in model.trained.values()} == {torch.float32}
    assert torch.equal(logprobs(model, "policy", given), logprobs(model, None, given))
    disturb(model)
    with model.using("value"):
        flat = model.response_states(given)
    assert flat.dtype == torch.bfloat16
    assert model.values(flat).dtype == model.logprobs(flat, given).dtype == torch.float32
    # A head in bfloat16 would round the values to 3 digits.
    wanted = flat.float() @ model.value_head.weight[0] + model.value_head.bias
    torch.testing.assert_close(model.values(flat), wanted, rtol=0, atol=1e-6)


def test_logprobs_are_those_of_the_temperature(tiny_model: Path) -> None:
    hot = policy_model(tiny_model, temperature=2.0)
    given = rows(hot.loaded)
    with torch.no_grad(), hot.using(None):
        flat = hot.response_states(given)
        probabilities = (hot.lm.logits(flat) / 2).softmax(1)
    tokens = torch.tensor([token for _, answer in given for token in answer])
    found, entropy = hot.logprobs_and_entropies(flat, given)
    torch.testing.assert_close(found, probabilities[torch.arange(len(tokens)), tokens].log())
    torch.testing.assert_close(entropy, -(probabilities * probabilities.log()).sum(1))


def test_logits_in_pieces_give_the_same_numbers_and_gradients_and_are_not_kept(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = policy_model(tiny_model, temperature=0.7)
    disturb(model)
    given = rows(model.loaded)
    kept: list[int] = []

    def passed() -> tuple[list[Tensor], list[Tensor], int]:
        kept.clear()
        flat = model.response_states(given).detach().requires_grad_(True)
        with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t.numel()), t)[1], lambda t: t):
            found = model.logprobs_and_entropies(flat, given)
        (found[0].sum() + 0.3 * found[1].sum()).backward()
        assert flat.grad is not None
        return [value.detach() for value in found], [flat.grad], max(kept)

    whole, gradient, most = passed()
    plain = model.logprobs(model.response_states(given), given)
    monkeypatch.setattr(adapters, "LOGITS", 3 * model.vocabulary)  # three tokens at a time
    parts, other, fewest = passed()
    for one, two in zip([*whole, *gradient, plain], [*parts, *other, logprobs(model, "policy", given)], strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)
    assert most >= model.vocabulary * len(whole[0])
    assert fewest < model.vocabulary * 3
