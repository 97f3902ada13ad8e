"""Before the first update: the policy is the SFT model, and what it samples is drawn from what will be trained."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from rlaif.check.ppo.subject import Deviation, Subject, apart, own_logprobs, real, rows_of
from rlaif.core.records import Prompt
from rlaif.lm.local.causal_lm import uniforms
from rlaif.lm.local.packing import Row
from rlaif.training.ppo.advantages import token_weights
from rlaif.training.ppo.formulas import masked_mean
from rlaif.training.ppo.local_sampler import LocalSampler, seed_of
from rlaif.training.ppo.step import PpoTrainer


def sft_model(subject: Subject) -> Iterator[Deviation]:
    """With the adapters off, and with fresh ones on, log-probs are the SFT model's own, of the very ids sampled."""
    batch, entropy = subject.trainer().measure(subject.probe)
    for name, which in (("ref_logprobs", "adapters off"), ("logprobs", "fresh adapters")):
        for row, truth in enumerate(subject.truth):
            off = apart(real(batch, name, row), truth.logprobs)
            yield Deviation(f"log-probs, {which}, {subject.row(row)}", off, subject.rounding)
    mean = float(torch.cat([truth.entropies for truth in subject.truth]).mean())
    yield Deviation("entropy per token", abs(entropy - mean), subject.rounding)


def first_update(subject: Subject) -> Iterator[Deviation]:
    """Before the first update the KL to the reference is 0, the ratio is 1 and nothing is clipped."""
    trainer = subject.trainer()
    batch, _ = trainer.measure(subject.probe)
    for row in range(len(subject.probe)):
        off = apart(real(batch, "logprobs", row), real(batch, "ref_logprobs", row))
        yield Deviation(f"KL to the reference, {subject.row(row)}", off)
    rows = range(len(subject.probe))
    found = trainer.gradients(batch, rows, warmup=False)
    yield Deviation("clip fraction of the first mini-batch", found["clip_fraction"])
    yield Deviation("KL of the first mini-batch to the rollouts' policy", found["approx_kl"], subject.rounding**2)
    config = trainer.config
    weights = token_weights(batch.response_mask, loss_type=config.loss_type, longest=config.max_new_tokens)
    unclipped = -float((weights * trainer.advantages(batch, rows)).sum())
    yield Deviation("policy loss at ratio 1", abs(found["policy_loss"] - unclipped), subject.rounding)


def dropout(subject: Subject) -> Iterator[Deviation]:
    """No dropout is on, LoRA's included: the same pass with gradients gives the same bits again."""
    trainer = subject.trainer(moved=True)
    active = [m for m in trainer.model.peft.modules() if isinstance(m, nn.Dropout) and m.p > 0 and m.training]
    yield Deviation("dropout layers that are on", len(active))
    batch, _ = trainer.measure(subject.probe)
    rows = range(len(subject.probe))
    first, again = (trainer.gradients(batch, rows, warmup=False) for _ in range(2))
    for name in ("policy_loss", "approx_kl"):
        yield Deviation(f"{name.replace('_', ' ')} of the same mini-batch", abs(first[name] - again[name]))


def merged_weights(subject: Subject) -> Iterator[Deviation]:
    """The merged weights that sample are the policy, and the frozen ones come back to the last bit."""
    trainer = subject.trainer(moved=True)
    model, rows = trainer.model, rows_of(subject.probe)
    wanted, reference = _logprobs(trainer, rows, "policy"), _logprobs(trainer, rows, None)
    yield Deviation("adapters without an effect", float(torch.equal(wanted, reference)))
    with torch.no_grad(), model.merged() as lm:
        merged = torch.cat([own_logprobs(lm.model, row, model.temperature) for row in rows])
    yield Deviation("log-probs, merged weights against adapters", apart(merged, wanted), subject.rounding)
    after = _logprobs(trainer, rows, None)
    yield Deviation("reference log-probs after sampling", apart(after, reference))


def sampler(subject: Subject) -> Iterator[Deviation]:
    """Every sampled token is the one that its draw falls on in the policy's full distribution at the temperature."""
    trainer = subject.trainer(moved=True)
    asked = list(subject.prompts[:4])
    for together in (len(asked), 1):
        work = LocalSampler(trainer.model, trainer.config, seed=subject.seed, batch_size=together)
        yield from _draws(subject, trainer, work, asked, f"{together} at a time")


def _draws(
    subject: Subject, trainer: PpoTrainer, work: LocalSampler, asked: list[Prompt], how: str
) -> Iterator[Deviation]:
    """How far each token's draw lies from its interval of the cumulative distribution, computed apart from sampling:
    by the adapters, without padding or cache. Top-k, top-p, penalties, another temperature or a shifted position
    would all move the intervals."""
    rollouts = work.sample(asked, 0)  # `asked` is in order of length, as the rollouts are
    draws = uniforms([seed_of(work.seed, 0, i) for i in range(len(asked))], trainer.config.max_new_tokens)
    for row, (prompt, response) in enumerate(rows_of(rollouts)):
        with torch.no_grad(), trainer.model.using("policy"):
            logits = trainer.model.logits(trainer.model.response_states([(prompt, response)])).cpu()
        cumulative = logits.double().softmax(1).cumsum(1)
        tokens = torch.tensor(list(response))[:, None]
        high = cumulative.gather(1, tokens)
        low = torch.where(tokens > 0, cumulative.gather(1, (tokens - 1).clamp(min=0)), 0.0)
        draw = torch.from_numpy(draws[row][: len(response)]).double()[:, None]
        off = torch.maximum(low - draw, draw - high).clamp(min=0).flatten()
        limit = subject.rounding / 2
        yield Deviation(f"draw of token {int(off.argmax()) + 1}, prompt {row + 1}, {how}", float(off.max()), limit)


def end_token(subject: Subject) -> Iterator[Deviation]:
    """An end token ends a response, is kept as its last token, and does nothing in a prompt."""
    trainer = subject.trainer()
    asked = list(subject.prompts[:4])
    # Below float32 the rounding depends on who is in the batch, so that one who leaves it changes what the others say.
    together = len(asked) if trainer.model.loaded.dtype == torch.float32 else 1
    work = LocalSampler(trainer.model, trainer.config, seed=subject.seed, batch_size=together)
    free = work.sample(asked, 0)
    first = free.responses[0]
    # Two kinds of end token are planted: one that the first response is known to say, and all that a prompt holds.
    for planted in ({first[len(first) // 2]}, set(free.prompt_ids[0])):
        work.ends = sorted({*work.ends, *planted})
        found = work.sample(asked, 0)
        for row, (whole, response) in enumerate(zip(free.responses, found.responses, strict=True)):
            place = next((i for i, token in enumerate(whole) if token in work.ends), None)
            wanted = whole if place is None else whole[: place + 1]
            off = abs(len(response) - len(wanted)) + (response[: len(wanted)] != wanted[: len(response)])
            yield Deviation(f"tokens of the response to prompt {row + 1}", off)
            off = found.finish[row] != ("length" if place is None else "stop")
            yield Deviation(f"wrong finish of the response to prompt {row + 1}", off)


def precision(subject: Subject) -> Iterator[Deviation]:
    """Log-probs, values, advantages and trained weights are float32, whatever the dtype of the frozen weights."""
    trainer = subject.trainer(moved=True)
    batch, _ = trainer.measure(subject.probe)
    for name in ("logprobs", "ref_logprobs", "values", "scores", "rewards", "advantages", "returns"):
        yield Deviation(f"{name} in another dtype", float(getattr(batch, name).dtype != torch.float32))
    wrong = [name for name, p in trainer.model.trained.items() if p.dtype != torch.float32]
    yield Deviation("trained weights in another dtype", len(wrong))
    flat = trainer.model.response_states(rows_of(subject.probe))
    logprobs = trainer.model.logprobs(flat, rows_of(subject.probe))
    yield Deviation("log-probs with gradient in another dtype", float(logprobs.dtype != torch.float32))
    total = float(masked_mean(batch.logprobs, batch.response_mask))
    yield Deviation("mean log-probs that are no number", float(total != total))


@torch.no_grad()
def _logprobs(trainer: PpoTrainer, rows: list[Row], which: str | None) -> Tensor:
    with trainer.model.using(which):
        return torch.cat([trainer.model.logprobs(trainer.model.response_states([row]), [row]) for row in rows]).cpu()
