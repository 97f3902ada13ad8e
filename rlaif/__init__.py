"""rlaif: align a language model with AI feedback guided by a constitution, instead of human labels.

These names are the public surface; docs/python.md shows each in use. What stands elsewhere in the package may change
with any version. Each name is imported at its first use, so `import rlaif` loads no library.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rlaif.constitution.lint import LintFinding
    from rlaif.constitution.lint import lint as check_constitution
    from rlaif.constitution.load import load_constitution
    from rlaif.core.errors import RlaifError
    from rlaif.core.evaluation import Summary
    from rlaif.core.features import features_of
    from rlaif.core.records import (
        Comparison,
        Constitution,
        Failure,
        Message,
        PreferenceLabel,
        Principle,
        Prompt,
        Response,
        RevisionTrace,
        Rollout,
        StageRecord,
        Verdict,
        WinRate,
    )
    from rlaif.judge.judge import Judge
    from rlaif.lm.protocol import (
        ChoiceLogprobs,
        ChoiceRequest,
        GenerateRequest,
        Generation,
        LanguageModel,
        ResponseLogprobs,
        ScoreRequest,
    )
    from rlaif.run.open import Run, load_judge, load_reward, open_model, open_run
    from rlaif.training.ppo import formulas as ppo_formulas

__version__ = "0.1.0"

__all__ = [
    "ChoiceLogprobs",
    "ChoiceRequest",
    "Comparison",
    "Constitution",
    "Failure",
    "GenerateRequest",
    "Generation",
    "Judge",
    "LanguageModel",
    "LintFinding",
    "Message",
    "PreferenceLabel",
    "Principle",
    "Prompt",
    "Response",
    "ResponseLogprobs",
    "RevisionTrace",
    "RlaifError",
    "Rollout",
    "Run",
    "ScoreRequest",
    "StageRecord",
    "Summary",
    "Verdict",
    "WinRate",
    "__version__",
    "check_constitution",
    "features_of",
    "load_constitution",
    "load_judge",
    "load_reward",
    "open_model",
    "open_run",
    "ppo_formulas",
]

_RECORDS = (
    *("Comparison", "Constitution", "Failure", "Message", "PreferenceLabel", "Principle", "Prompt", "Response"),
    *("RevisionTrace", "Rollout", "StageRecord", "Verdict", "WinRate"),
)
_ASKED = (
    *("ChoiceLogprobs", "ChoiceRequest", "GenerateRequest", "Generation", "LanguageModel", "ResponseLogprobs"),
    "ScoreRequest",
)
_PLACES = {
    **dict.fromkeys(_RECORDS, "rlaif.core.records"),
    **dict.fromkeys(_ASKED, "rlaif.lm.protocol"),
    **dict.fromkeys(("Run", "load_judge", "load_reward", "open_model", "open_run"), "rlaif.run.open"),
    "Judge": "rlaif.judge.judge",
    "LintFinding": "rlaif.constitution.lint",
    "RlaifError": "rlaif.core.errors",
    "Summary": "rlaif.core.evaluation",
    "features_of": "rlaif.core.features",
    "check_constitution": "rlaif.constitution.lint:lint",
    "load_constitution": "rlaif.constitution.load",
    "ppo_formulas": "rlaif.training.ppo.formulas:",
}
"""Name -> the module that has it, with ":name" where it has another name there and ":" where it is the module."""


def __getattr__(name: str) -> object:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from pkgutil import resolve_name

    place = _PLACES[name]
    globals()[name] = found = resolve_name(place if ":" in place else f"{place}:{name}")
    return found


def __dir__() -> list[str]:
    return __all__
