"""Which learning rate and how many epochs? Reward models on the labels of a finished run, one for each of a grid:

    python benchmarks/reward_sweep.py runs/my [--learning-rates 1e-4,3e-4,1e-3] [--epochs 1,2,4]
                                              [--set reward.targets=hard]

The prompts that the run itself held out take no part, so its own held-out accuracy is not what settings were chosen
by. Of the others each model holds out the run's share again (`reward.held_out`), and is measured on these: accuracy
with its 95 % interval by prompt, and log loss. All rows are measured on the same pairs. Where the intervals overlap
widely, take the setting with the lower log loss, or the cheaper one. Nothing is written into the run's folder.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from machine import machine

from rlaif.config import RunConfig
from rlaif.core.evaluation import HeldOut, read_held_out
from rlaif.core.files import JsonlFile, RunFolder
from rlaif.core.progress import Silent
from rlaif.core.records import PreferenceLabel
from rlaif.judge.load import load
from rlaif.lm.local.load import context_length, load_model
from rlaif.run.open import Run, open_run
from rlaif.stages import reward
from rlaif.stages.context import StageContext
from rlaif.training.rewards import preferences


def main() -> None:
    parser = argparse.ArgumentParser(description="Reward models on a run's labels, one for each of a grid.")
    parser.add_argument("run", type=Path, help="folder of a run whose label stage is finished")
    parser.add_argument("--learning-rates", default="1e-4,3e-4,1e-3")
    parser.add_argument("--epochs", default="1,2,4")
    parser.add_argument("--set", action="append", default=[], metavar="TABLE.FIELD=VALUE", help="as of rlaif")
    asked = parser.parse_args()
    run, folder = open_run(asked.run), RunFolder(asked.run)
    labels = training_labels(run, folder)
    print(f"{machine()}\n{asked.run}, {len(labels)} labels of the prompts to train on {' '.join(asked.set)}\n")
    print("| learning rate | epochs | held-out accuracy | log loss | accuracy in training | beats trivial | s |")
    print("|---|---|---|---|---|---|---|")
    for rate, epochs in itertools.product(asked.learning_rates.split(","), asked.epochs.split(",")):
        config = load(folder.config_path, [*asked.set, f"reward.learning_rate={rate}", f"reward.epochs={epochs}"])
        start = time.perf_counter()
        found, counts = measured(run, config, folder, labels)
        accuracy = "-" if found.accuracy is None else f"{found.accuracy:.1%}"
        if found.accuracy_low is not None and found.accuracy_high is not None:
            accuracy += f" [{found.accuracy_low:.0%}, {found.accuracy_high:.0%}]"
        learnt = f"{counts['accuracy_train']:.1%}" if "accuracy_train" in counts else "-"
        beats = {True: "yes", False: "no", None: "-"}[found.beats_trivial]
        seconds = time.perf_counter() - start
        print(
            f"| {rate} | {epochs} | {accuracy} | {found.log_loss:.3f} | {learnt} | {beats} | {seconds:.0f} |",
            flush=True,
        )


def training_labels(run: Run, folder: RunFolder) -> list[PreferenceLabel]:
    """The labels of the prompts that the run's own reward stage trains on."""
    loaded = load_model(run.config.model, (folder.file("sft", "adapter"),))
    limit = min(run.config.reward.max_length, context_length(loaded.model))
    groups, *_ = preferences.group_by_prompt(run.labels(), loaded, limit)
    train, _ = preferences.split(groups, share=run.config.reward.held_out, seed=run.config.seed)
    known = {group.prompt.id for group in train}
    return [label for label in run.labels() if label.comparison.prompt.id in known]


def measured(
    run: Run, config: RunConfig, folder: RunFolder, labels: Sequence[PreferenceLabel]
) -> tuple[HeldOut, dict[str, float]]:
    """(held_out.json, the counts) of the reward stage on the labels, in a folder that is removed afterwards."""
    with tempfile.TemporaryDirectory() as place:
        own = RunFolder(Path(place))
        adapter = own.file("sft", "adapter")
        adapter.parent.mkdir(parents=True)
        adapter.symlink_to(folder.file("sft", "adapter").absolute())
        JsonlFile(own.file("label", "labels.jsonl"), PreferenceLabel).append(labels)
        context = StageContext("reward", config, own, run.constitution, Silent(), _none, _none)
        counts = reward.run(context)
        found = read_held_out(own)
        assert found is not None
        return found, counts


def _none(*_: Any) -> Any:
    raise AssertionError("the reward stage asks no language model for text")


if __name__ == "__main__":
    main()
