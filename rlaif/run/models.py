"""The models of a stage at work: opened for it, counted for it, closed after it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass, field, replace
from pathlib import Path

from rlaif.config import AskingConfig, RunConfig
from rlaif.lm import open as open_model
from rlaif.lm.cache import CachedModel, spent_on
from rlaif.lm.protocol import LanguageModel, Usage

CACHES = {"policy": open_model.POLICY_CACHE, "judge": open_model.JUDGE_CACHE}
"""Who is asked -> the file that keeps the answers."""


@dataclass(slots=True)
class StageModels:
    """Opens the models of a stage. All that they are asked is counted in the caches in the folder `cache` under the
    name `work`, with what earlier sessions of the stage asked. `shares`: of a shard the folder with the run's caches,
    and how many shards share them."""

    config: RunConfig
    cache: Path
    work: str | None
    shares: tuple[Path, int] | None = None
    opened: list[tuple[str, LanguageModel]] = field(default_factory=list)

    def policy(self, adapters: tuple[Path, ...]) -> LanguageModel:
        return self._counted("policy", open_model.open_policy(self.config.model, adapters, self.cache))

    def judge(self, asking: AskingConfig, cache: Path | None = None) -> LanguageModel:
        """`cache`: a folder in place of the stage's own."""
        folder = self.cache if cache is None else cache
        return self._counted("judge", open_model.open_judge(asking, self.config.model, folder))

    def _counted(self, role: str, model: LanguageModel) -> LanguageModel:
        if self.work is not None and isinstance(model, CachedModel):
            model.count_for(self.work, self.cache / CACHES[role])
            if self.shares is not None:
                folder, of = self.shares
                model.share(folder / CACHES[role], of)
        self.opened.append((role, model))
        return model

    def usage(self) -> dict[str, float]:
        """Counts for a stage record, of all sessions; the answers that were known, of this one."""
        total: dict[str, float] = {}
        for role, name in CACHES.items():
            now = Usage(
                *map(sum, zip(*(astuple(model.usage) for who, model in self.opened if who == role), strict=True))
            )
            all_sessions = Usage() if self.work is None else spent_on(self.cache / name, self.work)
            if any(who == role for who, _ in self.opened) or all_sessions.calls:
                counted = all(isinstance(model, CachedModel) for who, model in self.opened if who == role)
                total |= (replace(all_sessions, cached=now.cached) if counted else now).as_counts(role)
        return total


@contextmanager
def closed_after(models: StageModels) -> Iterator[StageModels]:
    """The models of a stage; what it leaves open is closed here."""
    try:
        yield models
    finally:
        for _, model in models.opened:
            model.close()
