"""Reading a run config with every name in it known: the config's own rules, and those of the judging methods.

`rlaif.config` declares the fields and lies below the methods, so it cannot ask them itself.
"""

from __future__ import annotations

from functools import partial

from rlaif.config import AskingConfig
from rlaif.config import load as tables
from rlaif.judge.methods.table import METHODS, problems

_DEFAULT = AskingConfig.model_fields["method"].default
CHOICES = {"judge.method": (_DEFAULT, *(name for name in METHODS if name != _DEFAULT))}
"""Field -> the names that it may have, the default first, for fields whose names are declared above the config."""

load = partial(tables.load, check=problems)
load_or_default = partial(tables.load_or_default, check=problems)
default_config = partial(tables.default_config, check=problems)
parse = partial(tables.parse, check=problems)
