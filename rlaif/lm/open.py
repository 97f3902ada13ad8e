"""Opens the models of a run: the policy with its adapters, and the judge, both behind the cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from rlaif.config import AskingConfig, ModelConfig
from rlaif.core.shipped import cache_folder
from rlaif.lm.backends import find, open_local
from rlaif.lm.budget import Budget
from rlaif.lm.cache import CachedModel
from rlaif.lm.protocol import A, LanguageModel, RequestFor, Usage

JUDGE_CACHE, POLICY_CACHE = "judge.sqlite", "policy.sqlite"
OpenJudge = Callable[[AskingConfig, ModelConfig, Path], LanguageModel]
"""Opens the model of one judge, given the run's own model and a cache folder: see `open_judge`."""


def open_policy(model: ModelConfig, adapters: tuple[Path, ...], cache: Path) -> LanguageModel:
    """The run's model with LoRA adapters merged in; its answers are cached in `cache`/policy.sqlite."""
    return CachedModel(open_local(model, adapters), cache / POLICY_CACHE)


def open_judge(asking: AskingConfig, model: ModelConfig, cache: Path) -> LanguageModel:
    """The model of a judge or of one who votes beside it; answers are cached in `cache`/judge.sqlite, so that no
    finished call is made twice.

    Its budget counts what all commands of a run have asked it; in the user's own cache a command counts for itself."""
    inner, budget = open_asked(asking, model), Budget.from_config(asking)
    return CachedModel(inner, cache / JUDGE_CACHE, budget=budget, counts_before=cache != cache_folder())


def open_asked(asking: AskingConfig, model: ModelConfig) -> LanguageModel:
    """The model that is asked, without a cache: that of the backend, for a local one without a source the run's own."""
    return find(asking.backend).open(asking, model)


class OnDemand:
    """A language model that is opened at its first use, so that work without a question loads nothing.

    After `close` the next use opens it again; `usage` is that of every time it was open.
    """

    def __init__(self, open_model: Callable[[], LanguageModel]) -> None:
        self._open_model = open_model
        self._before = Usage()
        self._opened: LanguageModel | None = None

    @property
    def name(self) -> str:
        return self._model().name

    @property
    def fingerprint(self) -> str:
        return self._model().fingerprint

    @property
    def usage(self) -> Usage:
        return self._before if self._opened is None else self._before + self._opened.usage

    def ask(self, requests: Sequence[RequestFor[A]]) -> list[A]:
        return self._model().ask(requests)

    def close(self) -> None:
        if self._opened is not None:
            self._before = self.usage
            self._opened.close()
            self._opened = None

    def _model(self) -> LanguageModel:
        if self._opened is None:
            self._opened = self._open_model()
        return self._opened
