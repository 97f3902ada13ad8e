"""The models of a panel of judges, opened, counted and closed as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields

from rlaif.core.records import content_id
from rlaif.lm.protocol import A, LanguageModel, RequestFor, Usage


class PanelModel:
    """The run's own judge, with the models of those that vote beside it as `beside`, by the member's name.

    What it is asked itself, the own judge answers. `usage` is that of all.
    """

    def __init__(self, own: LanguageModel, beside: Mapping[str, LanguageModel]) -> None:
        self.own, self.beside = own, dict(beside)
        self._models = [own, *self.beside.values()]
        self.name = " + ".join(dict.fromkeys(model.name for model in self._models))
        self.fingerprint = content_id("panel", own.fingerprint, {n: m.fingerprint for n, m in self.beside.items()})

    @property
    def usage(self) -> Usage:
        return Usage(*(sum(getattr(m.usage, field.name) for m in self._models) for field in fields(Usage)))

    def ask(self, requests: Sequence[RequestFor[A]]) -> list[A]:
        return self.own.ask(requests)

    def close(self) -> None:
        for model in self._models:
            model.close()
