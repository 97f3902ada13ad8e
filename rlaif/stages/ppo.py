"""`ppo`: the SFT policy learns to score higher, with a KL penalty that keeps it near the SFT policy.

The loop, in order: sample -> measure (log-probs, reference, values, score) -> advantages -> clipped updates -> log.
training/ppo/step.py is its body, and says what departs from the papers. All randomness comes from (run seed, step,
place), so a run that is cut and resumed equals the uncut one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from rlaif.config import PpoConfig, RunConfig
from rlaif.core.errors import ConfigError, StageError
from rlaif.core.files import MetricsLog
from rlaif.core.launch import sharded
from rlaif.core.records import Prompt, Rollout, record_seed
from rlaif.inputs.columns import column_names
from rlaif.lm.local.load import LoadedModel, encode_chat, load_model
from rlaif.stages.context import StageContext
from rlaif.stages.label_pairs import own_answers
from rlaif.training.ppo import checkpoint as checkpoints
from rlaif.training.ppo.faults import SpoiltError, hopeless, stopped
from rlaif.training.ppo.local_sampler import LocalSampler, Sampler
from rlaif.training.ppo.policy_model import PolicyModel
from rlaif.training.ppo.processes import Processes, launched_processes
from rlaif.training.ppo.rollout import NotFiniteError, RolloutBatch, Rollouts, SamplingError
from rlaif.training.ppo.schedule import fitting, set_aside, step_prompts
from rlaif.training.ppo.server_sampler import ServerSampler, open_server
from rlaif.training.ppo.step import PpoTrainer
from rlaif.training.ppo.validation import Validation, load_gold
from rlaif.training.rewards.by_judge import JudgeReward
from rlaif.training.rewards.sources import Rewards, part_values


def run(context: StageContext) -> dict[str, float]:
    """Trains the policy adapter into ppo/adapter; returns counts and the first and last step's score and KL."""
    # 1. What is asked for, and whether it can be done; the other processes begin.
    config, prompts, processes = context.config.ppo, context.train_prompts(), launched_processes()
    _refuse_launch(context.config, processes)
    scorers = load_gold(config, context.progress) if processes.first else []
    processes.begin()
    rewards = Rewards.of_config(config, partial(_judge_reward, context, processes), column_names(prompts))
    for judge in rewards.judges:
        prompts = _answered(prompts, judge, context)
    # 2. The models, and the prompts that fit them.
    loaded = load_model(context.config.model, context.start)
    found = _fitting(prompts, loaded, config, context)
    trained, validated = set_aside(found, config, context.config.seed)
    trainer = _trainer(context, loaded, rewards.comparing(found, loaded.tokenizer), found, processes)
    measured = context.tracked("validation.jsonl", lambda row: f"validation/{row['slice'] or 'all'}/")
    validation = Validation(context.folder, config, context.progress, validated, scorers, processes, measured)
    # 3. The steps, from where the last checkpoint stands. The adapter is put in its place after the last one: where it
    # lies, only the stage's record can be missing.
    adapter, checkpoint = context.folder / "adapter", context.folder / "checkpoint"
    done = processes.from_first(adapter.exists)
    start = config.steps if done else trainer.state.restore(checkpoint)
    if processes.first:
        context.metrics.keep_before(start)
        _rollout_log(context).keep_before(start)
    validation.resume(start)
    if not done:
        _train(context, trainer, validation, trained, start, checkpoint)
    if not processes.first:
        return {}
    # 4. The adapter that is kept; nothing of the way there is needed any more.
    if not done:
        validation.finish(trainer.model, adapter)
    checkpoints.remove(checkpoint)
    validation.tidy()
    trainer.sampler.close()
    counts = _counts(context.metrics.read(), config, len(trained), len(prompts) - len(found)) | validation.counts()
    return counts | ({"processes": float(processes.count)} if processes.count > 1 else {})


def _trainer(
    context: StageContext, loaded: LoadedModel, rewards: Rewards, prompts: Sequence[Prompt], processes: Processes
) -> PpoTrainer:
    """The trainer of the stage on `loaded`, with all adapters, and what it samples from."""
    config, seed = context.config.ppo, context.config.seed
    asks = config.rollouts == "server" and processes.first and not (context.folder / "adapter").exists()
    files = context.folder / "server"
    server = open_server(loaded, config, files, context.progress) if asks else None
    model = PolicyModel(
        loaded,
        config,
        rewards=_reward_models(context) if rewards.by_model else [],
        seed=record_seed(seed, "ppo", "adapters") % (1 << 31),
        longest=max(len(encode_chat(loaded.tokenizer, p.messages)) for p in prompts) + config.max_new_tokens,
    )
    if sharded():
        model.shard(processes)
    if processes.count > 1:
        held = model.shards.held
        context.progress.say(f"  {processes.count} processes, each with {held:.0%} of the layers' frozen weights")
    sampler: Sampler = ServerSampler(model, server, config, files, seed=seed, processes=processes)
    if config.rollouts == "local":
        size = context.config.model.batch_size
        sampler = LocalSampler(model, config, seed=seed, batch_size=size, processes=processes)
    return PpoTrainer(model, config, seed=seed, rewards=rewards, sampler=sampler, processes=processes)


def _train(
    context: StageContext,
    trainer: PpoTrainer,
    validation: Validation,
    prompts: Sequence[Prompt],
    start: int,
    checkpoint: Path,
) -> None:
    """The steps from `start` on, each with its validation where it is time to, and checkpoints between them."""
    config = trainer.config
    before = trainer.processes.from_first(lambda: context.metrics.read()[-1:])
    last = start == config.steps or any(_far(row, config) for row in before)
    with context.progress.task("ppo", config.steps, "steps") as task:
        task.advance(start)
        with _kept(context, trainer, start, checkpoint):
            _validate(context, validation, trainer, start, last)
        for step in range(start, config.steps):
            if last or validation.over:
                break
            with _kept(context, trainer, step, checkpoint):
                row = _step(context, trainer, step, step_prompts(prompts, config, context.config.seed, step))
            last = step + 1 == config.steps or _far(row, config)
            with _kept(context, trainer, step + 1, checkpoint):
                _validate(context, validation, trainer, step + 1, last)
            if (step + 1) % config.save_steps == 0 or last or validation.over:
                trainer.state.save(checkpoint, step + 1)
                validation.forget()
            task.advance(1, f"score {row['score']:+.2f} kl {row['kl']:.1f} tokens {row['length']:.0f}")
            if last and step + 1 < config.steps:
                context.progress.say(f"  stopped after step {step + 1}: KL {row['kl']:.1f} is above ppo.max_kl")


def _far(row: Mapping[str, float], config: PpoConfig) -> bool:
    """Whether the policy of a step, of which `row` was measured, is further from the reference than it may be."""
    return config.max_kl is not None and row["kl"] > config.max_kl


def _refuse_launch(whole: RunConfig, processes: Processes) -> None:
    """Raises where a mini-batch cannot be shared out evenly, some having nothing to do, or all would take one GPU."""
    config = whole.ppo
    if processes.count > 1 and ":" in whole.model.device:
        raise ConfigError(
            f"device {whole.model.device!r} would put all {processes.count} processes on one device",
            where="model.device",
            remedy="write auto: each process takes a device of its own",
        )
    unit = config.samples_per_prompt * config.num_mini_batches * processes.count
    if processes.count > 1 and config.batch_size % unit:
        raise ConfigError(
            f"batch_size {config.batch_size} cannot be shared by {processes.count} processes: it must be a multiple of "
            f"samples_per_prompt {config.samples_per_prompt} x num_mini_batches {config.num_mini_batches} x "
            f"{processes.count} = {unit}",
            where="ppo.batch_size",
            remedy=f"set ppo.batch_size to {-(-config.batch_size // unit) * unit}, or launch other processes",
        )


def _reward_models(context: StageContext) -> list[Path]:
    return [context.run.file("reward", name) for name in context.config.reward.adapters]


def _judge_reward(context: StageContext, processes: Processes) -> JudgeReward:
    """The run's judge, with the answers that `label` sampled to compare with."""
    return JudgeReward(context.judge() if processes.first else None, own_answers(context.responses("label").read()))


def _answered(prompts: Sequence[Prompt], judge: JudgeReward, context: StageContext) -> list[Prompt]:
    """The prompts that the judge has something to compare with; the others are said. StageError without any."""
    found = [prompt for prompt in prompts if prompt.id in judge.references]
    if not found:
        raise StageError(
            f"none of {len(prompts)} prompts has an answer of the SFT policy for the judge to compare with",
            where="ppo.reward: judge",
            remedy="the label stage samples them: redo it with --force, or set ppo.reward: model",
        )
    if len(found) < len(prompts):
        context.progress.say(f"  {len(prompts) - len(found)} prompts have no answers from label and are left out")
    return found


def _step(context: StageContext, trainer: PpoTrainer, step: int, prompts: Sequence[Prompt]) -> dict[str, float]:
    """One step and its lines in the logs; raises StageError, with the batch saved, if anything is not a number."""
    with _stopped_by_numbers(context, trainer, step):
        rollouts, batch, row = trainer.step(step, prompts)
    if row["skipped_updates"]:
        context.progress.say(f"  step {step}: KL above ppo.max_approx_kl, {row['skipped_updates']} updates skipped")
    if trainer.processes.first:
        context.metrics.append(step=step, **row)
        _log_rollouts(_rollout_log(context), step, rollouts, batch, trainer)
    if row["approx_kl"] is None and trainer.processes.from_first(
        lambda: hopeless(context.metrics.read(), trainer.config.steps)
    ):
        what = "all updates of this step and the ones before moved the policy beyond ppo.max_approx_kl and were undone"
        raise stopped(context.folder, step, what, trainer, batch)
    return row


@contextmanager
def _kept(context: StageContext, trainer: PpoTrainer, done: int, checkpoint: Path) -> Iterator[None]:
    """Whatever stops the work that follows `done` steps, these are not lost; says how many are kept. A policy whose
    numbers went wrong does not replace the checkpoint before."""
    try:
        yield
    except BaseException as problem:
        if trainer.state.finished == done > trainer.state.saved and not isinstance(problem, SpoiltError):
            with suppress(Exception):  # the disk may be what is wrong, and what stopped the work is the error to tell
                trainer.state.save(checkpoint, done)
        context.progress.say(f"  ppo: {trainer.state.saved} of {trainer.config.steps} steps are kept")
        raise


def _validate(context: StageContext, validation: Validation, trainer: PpoTrainer, step: int, last: bool) -> None:
    """The validation after `step` finished steps, if it is time to; raises StageError as a step does."""
    with _stopped_by_numbers(context, trainer, step, "validation: "):
        validation.after(step, trainer, last=last)


@contextmanager
def _stopped_by_numbers(context: StageContext, trainer: PpoTrainer, step: int, doing: str = "") -> Iterator[None]:
    """Turns something that is not a number into a StageError, with what led to it saved."""
    try:
        yield
    except NotFiniteError as problem:
        raise stopped(context.folder, step, f"{doing}{problem}", trainer, problem.batch, problem.rows) from None
    except SamplingError as problem:
        raise stopped(context.folder, step, f"{doing}sampling: {problem}", trainer, None) from None


def _counts(rows: Sequence[dict[str, Any]], config: PpoConfig, prompts: int, too_long: int) -> dict[str, float]:
    """The counts of the stage's record, from its metrics: a resumed run has those of the uncut one."""
    counts = {
        "steps": len(rows),
        "prompts": prompts,
        "prompts_too_long": too_long,
        "generated_tokens": sum(round(row["length"] * config.batch_size) for row in rows),
        "skipped_updates": sum(row["skipped_updates"] for row in rows),
    }
    for name in ("score", "kl", "length", "eos_rate", "entropy"):
        counts |= {f"{name}_first": rows[0][name], f"{name}_last": rows[-1][name]}
    return {name: float(value) for name, value in counts.items()}


def _fitting(prompts: Sequence[Prompt], loaded: LoadedModel, config: PpoConfig, context: StageContext) -> list[Prompt]:
    """The prompts that leave room for a response; the others are said and counted."""
    found = fitting(prompts, loaded, config)
    if len(found) < len(prompts):
        context.progress.say(f"  {len(prompts) - len(found)} prompts are too long for ppo.max_length and left out")
    return found


def _rollout_log(context: StageContext) -> MetricsLog:
    return MetricsLog(context.folder / "rollouts.jsonl")


def _log_rollouts(
    log: MetricsLog, step: int, rollouts: Rollouts, batch: RolloutBatch, trainer: PpoTrainer, count: int = 4
) -> None:
    """Appends a few rollouts of the step, of different prompts where there are enough, to be read beside the curves."""
    order = sorted(range(len(rollouts)), key=lambda i: rollouts.prompts[i].id)
    for i in order[:: max(1, len(order) // count)][:count]:
        kept = Rollout(
            step=step,
            prompt_id=rollouts.prompts[i].id,
            prompt=rollouts.prompts[i].text,
            response=trainer.text(rollouts.responses[i]),
            finish=rollouts.finish[i],
            score=float(batch.scores[i]),
            parts=part_values(batch.parts, i),
        )
        log.append(**kept.as_row())
