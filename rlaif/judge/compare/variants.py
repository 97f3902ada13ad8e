"""The judges that `rlaif judge compare` sets against each other: each is the config with some fields changed.

    --methods contrast,pairwise                                  one per method, called after it
    --variant "opening: judge.method=contrast judge.opening_tokens=12"
    --variant "mine: judge.method=pairwise templates=my-templates"
    --variant "as it is:"                                        the config's own judge

A name, a colon, then words as after `--set`, quoted as in a shell. A variant changes who judges and how (`judge.FIELD`,
`model.FIELD`, a folder of `templates`), never what is judged by: constitution, seed and gold are the same for all.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlaif.config import RunConfig
from rlaif.core.errors import ConfigError, RlaifError
from rlaif.core.plugins import short_name
from rlaif.core.records import content_id
from rlaif.inputs.templates import CRITIQUE, REVISION, TemplateKind, load_template, load_templates
from rlaif.judge.compare.records import PANEL
from rlaif.judge.methods.table import in_use, template_kinds

TEMPLATES = "templates"
OF_A_JUDGE = ("judge", "model")
"""Tables of the config that a variant may change."""
EXAMPLE = 'for example --variant "opening: judge.method=contrast judge.opening_tokens=12"'
ConfigOf = Callable[[Sequence[str]], RunConfig]
"""The config with these overrides on top of those that all variants share."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One judge: its `name`, the `words` that make it, its config and the folder of its own templates."""

    name: str
    words: tuple[str, ...]
    config: RunConfig
    templates: Path | None = None

    @property
    def template_hashes(self) -> tuple[str, ...]:
        """Of the templates that it asks with, one for each method that has one."""
        kinds = _kinds(self.config)
        return tuple(load_template(kind, self.templates).hash for kind in kinds)

    @property
    def settings(self) -> dict[str, Any]:
        """The fields of the judge table that can change a label before calibration."""
        return {name: value for name, value in self.config.judge.settings().items() if name != "calibration"}

    @property
    def identity(self) -> str:
        """A hash of all that can change a label before calibration."""
        return content_id(self.settings, self.config.model.settings(), self.template_hashes)


def read_variants(methods: str | None, given: Sequence[str], config_of: ConfigOf) -> list[Variant]:
    """The variants in the order in which they are given, those of `methods` first; at least two.

    Raises ConfigError or TemplateError naming every variant that is wrong, also two with one name and two that ask the
    same thing in the same way.
    """
    named = [
        # a method of the user's own, module:NAME, is called after its NAME
        (f"--methods {name}", f"{short_name(name)}: judge.method={name}")
        for name in ("" if methods is None else methods).replace(",", " ").split()
    ]
    found: list[Variant] = []
    problems: list[tuple[str, RlaifError]] = []
    for shown, text in (*named, *((f"--variant {text!r}", text) for text in given)):
        try:
            variant = _variant(*_split(text), config_of)
            _refuse_repeated(variant, found)
            found.append(variant)
        except RlaifError as problem:
            problems.append((shown, problem))
    if problems:
        told = "; ".join(f"{shown}: {problem.what}" for shown, problem in problems)
        first = problems[0][1]
        raise type(first)(told, where=first.where, remedy=first.remedy or EXAMPLE)
    if len(found) < 2:
        raise ConfigError(
            f"there {'is one judge' if found else 'is no judge'} to compare",
            remedy=f"name two or more: --methods contrast,pairwise; or {EXAMPLE}",
        )
    return found


def _split(text: str) -> tuple[str, tuple[str, ...]]:
    """The name and the words of one --variant."""
    name, colon, rest = text.partition(":")
    if not colon or not name.strip() or "=" in name:
        raise ConfigError("does not begin with a name and a colon", remedy=EXAMPLE)
    try:
        return " ".join(name.split()), tuple(shlex.split(rest))
    except ValueError as problem:
        raise ConfigError(f"cannot be read: {problem}", remedy="close every quotation mark") from None


def _variant(name: str, words: Sequence[str], config_of: ConfigOf) -> Variant:
    overrides, templates = [], None
    for word in words:
        key, equals, value = word.partition("=")
        if key == TEMPLATES and equals:
            templates = Path(value)
        elif equals and key.split(".")[0] in OF_A_JUDGE:
            overrides.append(word)
        else:
            raise ConfigError(
                f"a variant cannot change {word!r}",
                remedy="judge.FIELD=VALUE, model.FIELD=VALUE, templates=FOLDER; --set and --config are for all judges",
            )
    config = config_of(overrides)
    if templates is not None:
        _refuse_folder(templates, config)
    variant = Variant(name, tuple(words), config, templates)
    _ = variant.template_hashes  # a wrong template is told before anything is asked
    return variant


def _kinds(config: RunConfig) -> list[TemplateKind]:
    return [method.template for method in in_use(config.judge) if method.template is not None]


def _refuse_folder(folder: Path, config: RunConfig) -> None:
    """Raises ConfigError where the folder could change nothing."""
    if not folder.is_dir():
        raise ConfigError(f"there is no folder {folder}", remedy="templates=FOLDER, with files such as pairwise.jinja")
    load_templates((CRITIQUE, REVISION, *template_kinds(config.judge)), folder)  # refuses a misspelt file
    files = [f"{kind.name}.jinja" for kind in _kinds(config)]
    if not any((folder / file).is_file() for file in files):
        raise ConfigError(
            f"the folder {folder} has no {' or '.join(files)}, so the shipped template would be used",
            remedy="write that file, or leave templates out",
        )


def _refuse_repeated(variant: Variant, found: Sequence[Variant]) -> None:
    if variant.name == PANEL:
        raise ConfigError(f"{PANEL} is what the mean of all judges is called", remedy="choose another name")
    for other in found:
        if variant.name == other.name:
            raise ConfigError(f"there already is a judge called {variant.name}", remedy="give each a name of its own")
        if other.identity == variant.identity:
            raise ConfigError(f"is the same judge as {other.name}", remedy="leave one out, or change a field")
