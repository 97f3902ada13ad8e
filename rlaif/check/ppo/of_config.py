"""The subject of a run config: its model, prompts and reward, and what a run has made of them, as far as it has."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from rlaif.check.ppo.subject import Subject, open_subject
from rlaif.config import RunConfig
from rlaif.constitution.load import load_constitution
from rlaif.core.files import JsonlFile, RunFolder
from rlaif.core.records import Prompt, Response, record_seed
from rlaif.core.shipped import cache_folder
from rlaif.inputs.columns import column_names
from rlaif.inputs.prompt_sets import split_prompts
from rlaif.judge.gate import calibration_of
from rlaif.judge.judge import Judge
from rlaif.judge.methods.table import askings
from rlaif.lm.local.causal_lm import CausalLM, sample
from rlaif.lm.local.load import LoadedModel, encode_chat, end_ids, load_model
from rlaif.lm.open import open_judge
from rlaif.training.ppo.schedule import fitting
from rlaif.training.rewards.by_judge import JudgeReward
from rlaif.training.rewards.model import RewardModel
from rlaif.training.rewards.sources import Rewards

SEEN = 64
"""Prompts of the config that are looked at; of these, four of different length are used."""


@contextmanager
def opened(config: RunConfig, run: RunFolder | None) -> Iterator[tuple[Subject, str]]:
    """The subject and a line about it.

    Without a run the model stands for the SFT model, and a reward model of random weights for the one to come. There
    the dtype "auto" means float32: the rounding of bfloat16 could hide a defect.
    """
    model = config.model
    if run is None and model.dtype == "auto":
        model = model.model_copy(update={"dtype": "float32"})
    adapters = (run.file("sft", "adapter"),) if run is not None and run.record("sft") is not None else ()

    def load() -> LoadedModel:
        return load_model(model, adapters)

    loaded = load()
    known = _known(config, run)
    prompts = _prompts(config, known, loaded)
    rewards = Rewards.of_config(config.ppo, partial(_judge, config, run, loaded, prompts), column_names(known))
    rewards = rewards.comparing(prompts, loaded.tokenizer)
    with tempfile.TemporaryDirectory() as folder:
        members, kind = _reward_models(config, run, load, Path(folder)) if rewards.by_model else ([], "")
        subject = open_subject(
            loaded,
            config.ppo,
            prompts,
            load=load,
            rewards=rewards,
            members=members,
            seed=config.seed,
        )
        subject.trainer().measure(subject.probe)  # a reward that cannot score is told once, not by every check
        sft = "SFT policy" if adapters else "as the SFT policy"
        dtype = str(loaded.dtype).removeprefix("torch.")
        by = " + ".join(kind if part.source == "model" else part.source for part in config.ppo.reward)
        yield subject, f"{loaded.name} {sft}, {dtype} on {loaded.device}; reward: {by}; {len(prompts)} prompts"


def _known(config: RunConfig, run: RunFolder | None) -> list[Prompt]:
    """The training prompts of the run, or of the config."""
    if run is not None and run.file("prompts", "train.jsonl").exists():
        return JsonlFile(run.file("prompts", "train.jsonl"), Prompt).read()
    return split_prompts(config.prompts, config.seed)[0]


def _prompts(config: RunConfig, found: Sequence[Prompt], loaded: LoadedModel) -> list[Prompt]:
    """Up to four of the prompts that leave room for a response, from the shortest to the longest."""
    sizes = {prompt.id: len(encode_chat(loaded.tokenizer, prompt.messages)) for prompt in found[:SEEN]}
    fits = sorted(fitting(found[:SEEN], loaded, config.ppo), key=lambda p: sizes[p.id])
    places = {round(share * (len(fits) - 1) / 3) for share in range(4)}
    return [fits[place] for place in sorted(places)]


def _judge(config: RunConfig, run: RunFolder | None, loaded: LoadedModel, prompts: Sequence[Prompt]) -> JudgeReward:
    """The judge of the config, with the run's answers to compare with, or two fresh ones to each prompt."""
    judge = Judge(
        config.judge,
        load_constitution(config.constitution),
        models=[open_judge(asking, config.model, cache_folder()) for asking in askings(config.judge)],
        seed=config.seed,
        templates=None if run is None else run.templates_path,
        prompts=config.prompts,
        calibration=None if run is None else calibration_of(config.judge, run),
    )
    references: dict[str, list[Response]] = {}
    if run is not None and run.record("label") is not None:
        for response in JsonlFile(run.file("label", "responses.jsonl"), Response).read():
            references.setdefault(response.prompt_id, []).append(response)
    missing = [prompt for prompt in prompts if prompt.id not in references]
    if missing:
        references |= _answers(config, loaded, missing)
    return JudgeReward(judge, references)


def _answers(config: RunConfig, loaded: LoadedModel, prompts: Sequence[Prompt]) -> dict[str, list[Response]]:
    """Two short answers of the model to each prompt."""
    asked = [prompt for prompt in prompts for _ in range(2)]
    sampled = sample(
        CausalLM(loaded.model),
        [encode_chat(loaded.tokenizer, prompt.messages) for prompt in asked],
        max_new_tokens=min(16, config.label.max_new_tokens),
        temperature=config.label.temperature,
        seeds=[record_seed(config.seed, "conformance", i) for i in range(len(asked))],
        ends=end_ids(loaded.tokenizer, loaded.model),
    )
    answers: dict[str, list[Response]] = {}
    for number, (prompt, found) in enumerate(zip(asked, sampled, strict=True)):
        text = str(loaded.tokenizer.decode(found.ids, skip_special_tokens=True)).strip()
        answer = Response(prompt.id, text, "sft", number, config.label.temperature, found.finish, len(found.ids))
        answers.setdefault(prompt.id, []).append(answer)
    return answers


def _reward_models(
    config: RunConfig, run: RunFolder | None, load: Callable[[], LoadedModel], folder: Path
) -> tuple[list[Path], str]:
    """(folders of the run's reward models, or of ones with random weights, what they are)."""
    several = f"{config.reward.members} reward models" if config.reward.members > 1 else "reward model"
    if run is not None and run.record("reward") is not None:
        return [run.file("reward", name) for name in config.reward.adapters], f"the run's {several}"
    import torch

    for number, name in enumerate(config.reward.adapters):
        model = RewardModel.new(load(), config.reward, seed=config.seed)
        generator = torch.Generator().manual_seed(record_seed(config.seed + number, "reward") % (1 << 31))
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn(parameter.shape, generator=generator).to(parameter.device) * 0.02)
        model.mean, model.std = 0.3, 1.7
        model.save(folder / name)
    kind = several if config.reward.members > 1 else "a reward model"
    return [folder / name for name in config.reward.adapters], f"{kind} of random weights"
