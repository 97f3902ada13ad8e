"""The `dpo` stage: the SFT policy learns the labels themselves (arXiv 2305.18290), in the place of PPO or beside it.

1. It learns from the labels that `reward` learns from, less those that this stage cannot use; none is held out, for
   what comes of it is measured by `evaluate` on other prompts.
2. Departure from the paper: labels are probabilities, and the loss takes them as such (`dpo.targets`).
"""

from __future__ import annotations

import shutil

from rlaif.core.files import write_folder
from rlaif.lm.local.load import load_model, save_adapter
from rlaif.stages.context import StageContext
from rlaif.stages.training_labels import training_labels
from rlaif.training import dpo
from rlaif.training.preference_metrics import label_entropy
from rlaif.training.rewards.preferences import with_a_side


def run(context: StageContext) -> dict[str, float]:
    """Counts of the stage, after `dpo/adapter` has been trained on the run's labels."""
    config = context.config.dpo
    loaded = load_model(context.config.model, context.start)
    labels = training_labels(context, loaded, config.max_length)
    labels.refuse()
    groups = labels.groups if config.targets == "soft" else with_a_side(labels.groups)
    rows = dpo.pair_rows(groups)
    ties = len(labels.known) - len(rows)
    if ties:
        context.progress.say(f"  dpo: {ties} labels are exactly 0.5, have no side, and are left out")
    checkpoints = context.folder / "checkpoints"
    model = dpo.train(
        loaded,
        rows,
        config,
        seed=context.config.seed,
        checkpoints=checkpoints,
        metrics=context.metrics,
        progress=context.progress,
    )
    write_folder(context.adapter("dpo"), lambda folder: save_adapter(model, folder, merged=loaded.merged))
    shutil.rmtree(checkpoints, ignore_errors=True)
    metrics = context.metrics.read()
    counts = {
        "pairs": len(rows),
        "prompts": len(groups),
        **labels.counts(),
        **({"ties": ties} if ties else {}),
        "steps": len(metrics),
        "label_entropy": label_entropy([row["prob"] for row in rows]),
        **{
            f"{name}_{when}": row.get(name)
            for when, row in (("first", metrics[0]), ("last", metrics[-1]))
            for name in ("loss", *dpo.COLUMNS)
        },
    }
    return {name: float(value) for name, value in counts.items() if value is not None}
