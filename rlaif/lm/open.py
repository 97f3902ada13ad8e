"""Opens the models of a run: the policy with its adapters, and the judge, both behind the cache."""

from __future__ import annotations

from pathlib import Path

from rlaif.config import JudgeConfig, ModelConfig
from rlaif.lm.cache import CachedModel
from rlaif.lm.protocol import LanguageModel


def open_policy(model: ModelConfig, adapters: tuple[Path, ...], cache: Path) -> LanguageModel:
    """The run's model with LoRA adapters merged in; its answers are cached in `cache`/policy.sqlite."""
    return CachedModel(_local(model, adapters), cache / "policy.sqlite")


def open_judge(judge: JudgeConfig, model: ModelConfig, cache: Path) -> LanguageModel:
    """The judge's model; its verdicts are cached in `cache`/judge.sqlite, so that no finished call is made twice."""
    if judge.backend == "scripted":
        from rlaif.lm.scripted import ScriptedModel

        inner: LanguageModel = (
            ScriptedModel() if judge.source is None else ScriptedModel.from_file(Path(judge.source))
        )
    elif judge.backend == "openai":
        inner = open_server(judge)
    else:
        inner = _local(model if judge.source is None else model.model_copy(update={"source": judge.source}), ())
    return CachedModel(inner, cache / "judge.sqlite")


def open_server(judge: JudgeConfig) -> LanguageModel:
    """The client of an OpenAI-compatible server."""
    from rlaif.lm.openai_server import OpenAIModel

    return OpenAIModel.from_config(judge)


def _local(model: ModelConfig, adapters: tuple[Path, ...]) -> LanguageModel:
    from rlaif.lm.local import LocalModel
    from rlaif.models import load_model

    return LocalModel(load_model(model, adapters), batch_size=model.batch_size)
