"""The backends: what `judge.backend` may name. A new one of ours is an entry of the table below."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from rlaif.config import AskingConfig, JudgeConfig, ModelConfig
from rlaif.core.errors import ConfigError, RlaifError, StageError
from rlaif.core.files import file_hash
from rlaif.core.plugins import check_name, load_own, own_code
from rlaif.core.records import Failure
from rlaif.lm.protocol import A, ArrivingModel, LanguageModel, ModelAnswer, Request, RequestFor, Usage

WHERE = "judge.backend"


@dataclass(frozen=True, slots=True)
class Backend:
    """`open(asking, model)` is the model that the table `asking` names; `model` is the run's own, which may be it.
    `identity` of the same two changes whenever what answers does, and is known before anything is opened."""

    open: Callable[[AskingConfig, ModelConfig], LanguageModel]
    identity: Callable[[AskingConfig, ModelConfig], str]


def find(name: str) -> Backend:
    """The backend of that name, or a user's own, "module:Class".

    Raises ConfigError for a name that nothing goes by, with the nearest one, and for a module that cannot be imported.
    """
    check_name(name, BACKENDS, what="backend", where=WHERE)
    if name in BACKENDS:
        return BACKENDS[name]
    make = load_own(name, what="backend", where=WHERE, remedy="start rlaif where the module can be imported")
    if not callable(make):
        raise ConfigError(f"{name!r} is neither a class nor a function", where=WHERE, remedy="see docs/extending.md")
    return Backend(lambda asking, _: _own(name, make, asking), lambda *_: name)


def problems(judge: JudgeConfig) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """(place in the config, sentence) for each backend of the judge and its panel that there is not."""
    places: list[tuple[str | int, ...]] = [("judge",), *(("judge", "panel", n) for n in range(len(judge.panel)))]
    for place, asking in zip(places, (judge, *judge.panel), strict=True):
        try:
            find(asking.backend)
        except ConfigError as problem:
            yield (*place, "backend"), problem.advice


def _own(name: str, make: Callable[[AskingConfig], Any], asking: AskingConfig) -> LanguageModel:
    """What the user's class or function makes of the table, once it has all that a model needs."""
    try:
        model: Any = make(asking)
        lacking = [part for part in ("name", "fingerprint", "usage", "ask", "close") if not hasattr(model, part)]
    except RlaifError:
        raise
    except Exception as problem:  # whatever the user's code does
        raise ConfigError(
            f"the backend {name!r} cannot be opened: {type(problem).__name__}: {problem}",
            where=WHERE,
            remedy="it is called with the judge's table of the config and returns a model (docs/extending.md)",
        ) from problem
    if lacking:
        raise ConfigError(
            f"the backend {name!r} makes a {type(model).__name__} without {', '.join(lacking)}",
            where=WHERE,
            remedy="a model has name, fingerprint, usage, ask and close (docs/extending.md)",
        )
    return OwnArrivingModel(name, model) if isinstance(model, ArrivingModel) else OwnModel(name, model)


class OwnModel:
    """A user's model, whose mistakes are errors that name it."""

    def __init__(self, backend: str, model: LanguageModel) -> None:
        self.backend, self.model = backend, model

    @property
    def name(self) -> str:
        return self.model.name

    @property
    def fingerprint(self) -> str:
        return self.model.fingerprint

    @property
    def usage(self) -> Usage:
        return self.model.usage

    def ask(self, requests: Sequence[RequestFor[A]]) -> list[A]:
        with own_code(self.backend, what="backend"):
            found = list(self.model.ask(requests))
        if len(found) != len(requests):
            raise self._unusable(f"{len(found)} answers to {len(requests)} requests")
        for request, answer in zip(requests, found, strict=True):
            kind = type(request.failed(Failure("backend", "")))
            if not isinstance(answer, kind):
                raise self._unusable(f"{answer!r:.80} to a {type(request).__name__}, not a {kind.__name__}")
        return found

    def close(self) -> None:
        with own_code(self.backend, what="backend"):
            self.model.close()

    def _unusable(self, what: str) -> StageError:
        return StageError(
            f"the backend {self.backend} gave {what}",
            where=WHERE,
            remedy="return one answer for each request, in order, of the request's kind (docs/extending.md)",
        )


class OwnArrivingModel(OwnModel):
    """One whose answers come one by one."""

    model: ArrivingModel

    def arriving(self, requests: Iterable[Request]) -> Iterator[list[tuple[int, ModelAnswer]]]:
        with own_code(self.backend, what="backend"):
            yield from self.model.arriving(requests)


_loaded: WeakValueDictionary[tuple[str, str, str], Any] = WeakValueDictionary()
"""(source, fingerprint, device) -> LoadedModel, for as long as somebody uses it."""


def open_local(model: ModelConfig, adapters: tuple[Path, ...] = ()) -> LanguageModel:
    """A model of its own, without a cache, on weights that all models of the same source and adapters share: nobody
    changes them."""
    from rlaif.lm.local.load import load_model, model_fingerprint
    from rlaif.lm.local.model import LocalModel

    key = (model.source, model_fingerprint(model, adapters), model.device)
    loaded = _loaded.get(key)
    if loaded is None:
        loaded = _loaded[key] = load_model(model, adapters)
    return LocalModel(loaded, batch_size=model.batch_size)


def _local_model(asking: AskingConfig, model: ModelConfig) -> ModelConfig:
    """The run's own model, unless the judge names another."""
    return model if asking.source is None else model.model_copy(update={"source": asking.source})


def _weights(asking: AskingConfig, model: ModelConfig) -> str:
    from rlaif.lm.local.load import model_fingerprint

    return model_fingerprint(_local_model(asking, model))


def _open_server(asking: AskingConfig, _: ModelConfig) -> LanguageModel:
    from rlaif.lm.server.client import OpenAIModel

    return OpenAIModel(asking)


def _open_scripted(asking: AskingConfig, _: ModelConfig) -> LanguageModel:
    from rlaif.lm.scripted import ScriptedModel

    return ScriptedModel() if asking.source is None else ScriptedModel.from_file(Path(asking.source))


def _rules(asking: AskingConfig, _: ModelConfig) -> str:
    if asking.source is not None and Path(asking.source).is_file():
        return f"scripted {file_hash(Path(asking.source))}"
    return "scripted"


BACKENDS = {
    "local": Backend(lambda asking, model: open_local(_local_model(asking, model)), _weights),
    "openai": Backend(_open_server, lambda *_: "openai"),  # a server is known by its settings
    "scripted": Backend(_open_scripted, _rules),
}
