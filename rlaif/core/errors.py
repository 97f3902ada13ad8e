"""The error tree. Every error that a user can cause says what is wrong, where, and what to write instead."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class RlaifError(Exception):
    """A mistake or failure that the user can act on; printed without a traceback, exit code `exit_code`.

    `what` is the sentence that names the problem, `where` the place (file:line, record id, config field),
    `remedy` what to do or write instead.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str | None = None, remedy: str | None = None) -> None:
        self.what, self.where, self.remedy = what, where, remedy
        super().__init__(self.__str__())

    @property
    def advice(self) -> str:
        """`what` and `remedy` in one line."""
        if not self.remedy:
            return self.what
        return f"{self.what}{' ' if self.what.endswith('?') else '; '}{self.remedy}"

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text}\n  -> {self.remedy}" if self.remedy else text


class ConfigError(RlaifError):
    """A run config that cannot be read, or has a wrong key or value."""

    exit_code = 2


class DataError(RlaifError):
    """A data file with a record that cannot be read."""

    exit_code = 3


class ConstitutionError(RlaifError):
    """A constitution that cannot be read or lacks the text that a stage needs."""

    exit_code = 3


class TemplateError(RlaifError):
    """A template that does not parse or uses a variable which its stage does not provide."""

    exit_code = 3


class ModelError(RlaifError):
    """A model, tokenizer or adapter that cannot be found, loaded or used for what was asked."""

    exit_code = 4


class BackendError(RlaifError):
    """A server (of the judge, of rollouts) that is down, refuses the key, or cannot do what is asked of it."""

    exit_code = 4


class RunFolderError(RlaifError):
    """A run folder that is in use, finished under another config, or would be overwritten unasked."""

    exit_code = 5


class StageError(RlaifError):
    """A stage that cannot do its work with what the earlier stages left (no accepted pair, NaN loss, ...)."""

    exit_code = 6


class DiskError(RlaifError):
    """The disk is full or cannot be written; what was written before is intact."""

    exit_code = 7


class BudgetError(RlaifError):
    """The judge has cost as much as the config allows; every answer that was paid for is kept."""

    exit_code = 8


MEMORY = ("out of memory", "can't allocate memory", "ALLOC_FAILED", "not enough memory")
"""What torch and its backends say where they raise no MemoryError."""


def memory_is_full(error: Exception) -> bool:
    """Whether a library that raises no MemoryError means one."""
    return any(words in str(error) for words in MEMORY)


def near(name: str, known: Iterable[str]) -> str:
    """ ", did you mean 'x'?" for the known name that looks most like `name`; empty if none does."""
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f", did you mean {found[0]!r}?" if found else ""
