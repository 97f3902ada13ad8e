"""Runs the demo over several seeds with its controls and variants, and prints the tables of docs/evidence.md:

    python benchmarks/evidence.py --out runs/evidence --seeds 1,2,3,4,5 --jobs 2
    python benchmarks/evidence.py --out runs/evidence --table

Every job is a run folder `seedN-NAME`; one that is finished is kept, so the command goes on where it was stopped.
Controls and variants stand on a copy of the seed's main run, with all stages before the one that they change:

- shuffled: of each pair the side that is preferred is drawn by a coin, then reward model and PPO as before;
- random: labels by a random judge on pairs of the SFT policy, then reward model and PPO;
- length: PPO against a reward for words alone;
- chosen: no PPO: further SFT on the preferred answers of the labels;
- policy, both, unconfirmed, hard, members: other labels or reward models (the variants), up to the reward model.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from machine import machine

from rlaif.core.evaluation import HeldOut, HeldOutAccuracy, read_held_out
from rlaif.core.files import JsonlFile, RunFolder, read_json_lines
from rlaif.core.records import PreferenceLabel, SftExample, record_seed
from rlaif.core.statistics import Estimate, Keyed, mean
from rlaif.stages.summary import best_of_name
from rlaif.training.rewards.predictors import SOURCE

CONFIG = Path(__file__).parent.parent / "scripts" / "demo.yaml"
RESAMPLES = 5000
BEST_OF = best_of_name(0).removesuffix("0")
CONTROLS = ("shuffled", "random", "length", "chosen")
POLICY_PAIRS = ("label.answers=policy", "label.balance=false", "label.contrast_from=sft")
VARIANTS: dict[str, tuple[str, ...]] = {
    "policy": POLICY_PAIRS,
    "both": ("label.answers=both",),
    "unconfirmed": ("label.confirm=false",),
    "hard": ("reward.targets=hard",),
    "members": ("reward.members=4",),
}
STAGES = ("card", "revise", "sft", "label", "reward", "ppo", "evaluate")


def main() -> None:
    parser = argparse.ArgumentParser(description="The demo over several seeds, with controls.")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run folders")
    parser.add_argument("--seeds", default="1,2,3,4,5", help="seeds that none of the demo's settings was chosen on")
    parser.add_argument("--config", type=Path, default=CONFIG, help="the runs' config; by default the demo's")
    parser.add_argument("--control-seeds", help="the seeds with controls and variants; by default all")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one thread each")
    parser.add_argument("--controls", default=",".join(CONTROLS), help="which controls")
    parser.add_argument("--variants", default="", help=f"which of {', '.join(VARIANTS)}")
    parser.add_argument("--best-of", type=int, default=0, help="best of so many answers: one more control; 0 = none")
    parser.add_argument("--table", action="store_true", help="print the tables of what is there, and run nothing")
    asked = parser.parse_args()
    seeds = [int(seed) for seed in asked.seeds.split(",")]
    if not asked.table:
        others = [name for name in (*asked.controls.split(","), *asked.variants.split(",")) if name]
        compared = seeds if asked.control_seeds is None else [int(seed) for seed in asked.control_seeds.split(",")]
        if unknown := set(compared) - set(seeds):
            parser.error(f"--control-seeds {sorted(unknown)}: not among --seeds")
        asked.out.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(asked.jobs) as pool:  # the main runs start first: the others wait for theirs alone
            best_of = {seed: asked.best_of if seed in compared else 0 for seed in seeds}
            mains = {seed: pool.submit(_main_run, asked.config, asked.out, seed, best_of[seed]) for seed in seeds}
            jobs = [pool.submit(_other_run, mains[seed], asked.out, seed, name) for seed in compared for name in others]
            for job in (*mains.values(), *jobs):
                job.result()
    print(f"{machine()}\n")
    tables(asked.out, seeds)


# ---- the runs ---------------------------------------------------------------------------------------------------


def _rlaif(*arguments: str) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run([sys.executable, "-m", "rlaif", *arguments], env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"rlaif {' '.join(arguments)}: exit {done.returncode}\n{done.stdout}\n{done.stderr}")


def _main_run(config: Path, out: Path, seed: int, best_of: int) -> None:
    folder, begun = out / f"seed{seed}-main", time.time()
    if (folder / "evaluate" / "stage.json").exists():
        return
    resume = ["--resume"] if folder.exists() else []
    sets = ["--set", f"seed={seed}", "--set", f"evaluate.best_of={best_of}"]
    _rlaif("run", str(config), "--out", str(folder), *resume, *sets)
    print(f"seed {seed} main: {time.time() - begun:.0f} s", file=sys.stderr, flush=True)


def _other_run(main_run: Future[None], out: Path, seed: int, name: str) -> None:
    main_run.result()
    source, folder, begun = out / f"seed{seed}-main", out / f"seed{seed}-{name}", time.time()
    last = "evaluate" if name in CONTROLS else "reward"
    if (folder / last / "stage.json").exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    first, sets = _changed(name)
    kept = STAGES[: STAGES.index(first)]
    shutil.copytree(source, folder, ignore=lambda at, names: _left(source, at, names, kept), symlinks=True)
    if name == "shuffled":
        _shuffle(folder, seed)
    if name == "random":  # the judge is another from here on; what was revised stays as it was
        _write_config(folder, {"judge": {"method": "random"}, "card": {"required": False}})
    if name == "chosen":
        _train_on_chosen(folder)
    changes = [part for setting in (*sets, "evaluate.best_of=0") for part in ("--set", setting)]
    for stage in STAGES[STAGES.index(first) : STAGES.index(last) + 1]:
        if name == "chosen" and stage == "ppo":
            continue
        _rlaif(stage, "--run", str(folder), *changes)
    print(f"seed {seed} {name}: {time.time() - begun:.0f} s", file=sys.stderr, flush=True)


def _changed(name: str) -> tuple[str, tuple[str, ...]]:
    """(the first stage that is done anew, the settings that it is done under)."""
    known: dict[str, tuple[str, tuple[str, ...]]] = {
        "shuffled": ("reward", ()),
        "random": ("label", (*POLICY_PAIRS, "label.pairs=3")),
        "length": ("ppo", ("ppo.reward=rlaif.gold.text:length_reward", "ppo.value=trunk")),  # no model to be the critic
        "chosen": ("ppo", ()),
    }
    if name in known:
        return known[name]
    sets = VARIANTS[name]
    return ("reward" if sets[0].startswith("reward") else "label"), sets


def _left(source: Path, at: str, names: Iterable[str], kept: Sequence[str]) -> list[str]:
    """What of a folder is not copied: at the top the later stages and the report."""
    if Path(at) != source:
        return []
    return [name for name in names if (name in STAGES and name not in kept) or name in ("report", "report.html")]


def _write_config(folder: Path, changes: dict[str, dict[str, Any]]) -> None:
    path = folder / "config.yaml"
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    for table, fields in changes.items():
        config.setdefault(table, {}).update(fields)
    path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    for stage in ("card", "revise", "sft"):
        record = folder / stage / "stage.json"
        data = json.loads(record.read_text(encoding="utf-8"))
        flat = {f"{table}.{field}": value for table, fields in changes.items() for field, value in fields.items()}
        data["config"].update({name: value for name, value in flat.items() if name in data["config"]})
        record.write_text(json.dumps(data), encoding="utf-8")


def _shuffle(folder: Path, seed: int) -> None:
    """The labels with the sides of every pair exchanged by a coin."""
    file = JsonlFile(folder / "label" / "labels.jsonl", PreferenceLabel)
    labels = file.read()
    file.path.unlink()
    file.append(
        label
        if label.prob_a is None or record_seed(seed, "coin", label.comparison.id) % 2
        else replace(label, prob_a=1 - label.prob_a)
        for label in labels
    )


def _train_on_chosen(folder: Path) -> None:
    """`ppo/adapter` by further SFT on the preferred answers, in as many tokens as there are."""
    from rlaif.config.load import load
    from rlaif.core.files import MetricsLog
    from rlaif.core.progress import Silent
    from rlaif.lm.local.load import load_model
    from rlaif.training import sft

    config = load(str(folder / "config.yaml"))
    examples = []
    for label in JsonlFile(folder / "label" / "labels.jsonl", PreferenceLabel).read():
        if label.prob_a is not None:
            best = label.comparison.a if label.prob_a > 0.5 else label.comparison.b
            examples.append(SftExample(label.comparison.prompt, best.text, "helpful", best.id, best.finish))
    loaded = load_model(config.model, (folder / "sft" / "adapter",))
    work = folder / "ppo"
    work.mkdir()
    model = sft.train(
        loaded,
        [sft.encode_example(loaded.tokenizer, example) for example in examples],
        config.sft,
        seed=config.seed,
        checkpoints=work / "checkpoints",
        metrics=MetricsLog(work / "metrics.jsonl"),
        progress=Silent(),
    )
    model.save_pretrained(str(work / "adapter"))
    shutil.rmtree(work / "checkpoints", ignore_errors=True)
    shutil.copy(folder.with_name(f"{folder.name.partition('-')[0]}-main") / "ppo" / "stage.json", work / "stage.json")


# ---- the tables -------------------------------------------------------------------------------------------------


def tables(out: Path, seeds: Sequence[int]) -> None:
    """Prints the effect seed by seed and pooled, all measures, the reward models, and what it cost."""
    mains = _runs(out, seeds, "main")
    runs = {"PPO": (mains, "ppo"), **_best_of(mains)}
    runs |= {name: (found, "ppo") for name in CONTROLS if (found := _runs(out, seeds, name))}
    slices = list(dict.fromkeys(row["slice"] for run in mains for row in _scores(run)))
    gold = yaml.safe_load((mains[0] / "config.yaml").read_text(encoding="utf-8"))["evaluate"]["gold"]
    print(f"### {gold[0].capitalize()}, seed by seed\n")
    print("| trained | seed | slice | base | SFT | it | it - SFT | in sd | at equal length | SFT - base | KL |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for part in slices:
        for name, (found, model) in runs.items():
            for run in found:
                print(_seed_row(name, [run], model, part, gold[0], run.name.partition("-")[0].removeprefix("seed")))
            print(_seed_row(name, found, model, part, gold[0], "all"))
    measures = [*gold, "base_logprob", "words", "finished", "distinct_2", "repetition", "refusal"]
    for part in slices:
        print(f"\n### {part} prompts, all seeds\n")
        print("| measure | base | SFT | PPO | " + " | ".join(f"{name} - SFT" for name in runs) + " |")
        print("|---" * (4 + len(runs)) + "|")
        for measure in measures:
            print(_measure_row(runs, part, measure))
    _reward_table(out, seeds)
    _cost(RunFolder(mains[0]))


Trained = tuple[list[Path], str]
"""The runs of a control, and the name that its model has in their evaluation."""


def _best_of(mains: Sequence[Path]) -> dict[str, Trained]:
    """The best of n answers of SFT, which the main runs of some seeds have measured."""
    found: dict[str, Trained] = {}
    for run in mains:
        for model in dict.fromkeys(row["model"] for row in _scores(run)):
            if model.startswith(BEST_OF):
                found.setdefault(model, ([], model))[0].append(run)
    return found


def _runs(out: Path, seeds: Sequence[int], name: str) -> list[Path]:
    folders = [out / f"seed{seed}-{name}" for seed in seeds]
    return [folder for folder in folders if (folder / "evaluate" / "stage.json").exists()]


def _scores(run: Path) -> list[dict[str, Any]]:
    return [row for _, row in read_json_lines(run / "evaluate" / "scores.jsonl")]


def _keyed(runs: Sequence[Path], part: str, model: str, measure: str) -> list[Keyed]:
    return [
        (f"{row['prompt_id']} {run.name}", None if row.get(measure) is None else float(row[measure]))
        for run in runs
        for row in _scores(run)
        if row["slice"] == part and row["model"] == model
    ]


def _pooled(values: Sequence[Keyed]) -> list[Keyed]:
    """The same by prompt alone: seeds share held-out prompts, and the interval is over prompts."""
    return [(key.partition(" ")[0], value) for key, value in values]


def _difference(runs: Sequence[Path], part: str, measure: str, one: str, other: str) -> Estimate | None:
    """Paired within each run, the interval by bootstrap over prompts."""
    first, second = (dict(_keyed(runs, part, model, measure)) for model in (one, other))
    known = [key for key in first if first[key] is not None and second.get(key) is not None]
    differences: list[Keyed] = [(key.partition(" ")[0], (first[key] or 0.0) - (second[key] or 0.0)) for key in known]
    return mean(differences, seed=0, resamples=RESAMPLES)


def _seed_row(name: str, runs: Sequence[Path], model: str, part: str, measure: str, seed: str) -> str:
    cells = [name, seed, part]
    for one in ("base", "sft", model):
        found = mean(_pooled(_keyed(runs, part, one, measure)), seed=0, resamples=RESAMPLES)
        cells.append("" if found is None else f"{found.mean:.3f}")
    difference = _difference(runs, part, measure, model, "sft")
    cells.append(_show(difference))
    values = [value for _, value in _keyed(runs, part, "sft", measure) if value is not None]
    middle = sum(values) / len(values)
    deviation = (sum((value - middle) ** 2 for value in values) / (len(values) - 1)) ** 0.5
    cells.append("" if difference is None else f"{difference.mean / deviation:+.2f}")
    cells.append(_at_equal_length(runs, model, part, measure))
    cells.append(_show(_difference(runs, part, measure, "sft", "base")))
    cells.append(_kl(runs, model, part))
    return "| " + " | ".join(cells) + " |"


def _kl(runs: Sequence[Path], model: str, part: str) -> str:
    """Nats a response to SFT."""
    kl = [row["mean"] for run in runs for row in _summary(run)["kl"] if (row["model"], row["slice"]) == (model, part)]
    return f"{sum(kl) / len(kl):.1f}" if kl else ""


def _at_equal_length(runs: Sequence[Path], model: str, part: str, measure: str) -> str:
    found = [
        row
        for run in runs
        for row in _summary(run)["length_controlled"]
        if (row["model"], row["slice"], row["measure"]) == (model, part, measure) and row["difference"] is not None
    ]
    return f"{sum(row['difference'] for row in found) / len(found):+.3f}" if found else ""


def _measure_row(runs: dict[str, Trained], part: str, measure: str) -> str:
    cells = [measure]
    for one in ("base", "sft", "ppo"):
        found = mean(_pooled(_keyed(runs["PPO"][0], part, one, measure)), seed=0, resamples=RESAMPLES)
        cells.append("" if found is None else f"{found.mean:.3f}")
    cells += [_show(_difference(found, part, measure, model, "sft")) for found, model in runs.values()]
    return "| " + " | ".join(cells) + " |"


def _summary(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "evaluate" / "summary.json").read_text(encoding="utf-8"))
    return found


def _reward_table(out: Path, seeds: Sequence[int]) -> None:
    print("\n### Reward models on held-out labels\n")
    print("| labels | seed | pairs, training | held out | right | best trivial predictor | right | lead | probe |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name in ("main", "shuffled", "random", *VARIANTS):
        all_seeds: list[HeldOut] = []
        for seed in seeds:
            run = RunFolder(out / f"seed{seed}-{name}")
            held_out, record = read_held_out(run), run.record("reward")
            if held_out is None or record is None:
                continue
            all_seeds.append(held_out)
            best = max(_surface(held_out), key=lambda found: found.accuracy or 0.0, default=None)
            cells = [name, str(seed), f"{record.counts['pairs_train']:.0f}", f"{held_out.pairs}"]
            cells.append(f"{held_out.accuracy:.3f}")
            lead = "" if best is None else _interval(best.lead, best.lead_low, best.lead_high)
            cells += ["", "", ""] if best is None else [best.name, f"{best.accuracy:.3f}", lead]
            probe = None if held_out.probe is None else held_out.probe.held_out.accuracy
            cells.append("" if probe is None else f"{probe:.3f}")
            print("| " + " | ".join(cells) + " |")
        if len(all_seeds) > 1:
            print("| " + " | ".join([name, "all", *_pooled_leads(all_seeds)]) + " |")


def _surface(held_out: HeldOut) -> list[HeldOutAccuracy]:
    """The trivial predictors that see the answers alone: none shows where it comes from."""
    return [found for found in held_out.predictors if found.name != SOURCE]


def _pooled_leads(seeds: Sequence[HeldOut]) -> list[str]:
    """The row of all seeds: the mean over them, and of the predictors the one that is best on average. The runs
    split, sample and train anew, so their errors are taken as independent."""
    named: dict[str, list[HeldOutAccuracy]] = {}
    for held_out in seeds:
        for found in _surface(held_out):
            if found.lead is not None:
                named.setdefault(found.name, []).append(found)
    everywhere = [found for found in named.values() if len(found) == len(seeds)]
    best = max(everywhere, key=lambda found: sum(one.accuracy or 0.0 for one in found), default=None)
    cells = ["", str(sum(held_out.pairs or 0 for held_out in seeds))]
    cells.append(f"{sum(held_out.accuracy or 0.0 for held_out in seeds) / len(seeds):.3f}")
    if best is None:
        return [*cells, "", "", "", ""]
    lead = sum(one.lead or 0.0 for one in best) / len(best)
    half = sum((((one.lead_high or 0.0) - (one.lead_low or 0.0)) / 2) ** 2 for one in best) ** 0.5 / len(best)
    accuracy = sum(one.accuracy or 0.0 for one in best) / len(best)
    return [*cells, best[0].name, f"{accuracy:.3f}", _interval(lead, lead - half, lead + half), ""]


def _show(estimate: Estimate | None) -> str:
    return "" if estimate is None else _interval(estimate.mean, estimate.low, estimate.high)


def _interval(middle: float | None, low: float | None, high: float | None) -> str:
    return "" if middle is None or low is None or high is None else f"{middle:+.3f} [{low:+.3f}, {high:+.3f}]"


def _cost(run: RunFolder) -> None:
    print("\n### Cost of one run\n")
    print("| stage | seconds | peak memory so far | tokens sampled | tokens scored | judge calls | failed |")
    print("|---|---|---|---|---|---|---|")
    for stage in (*STAGES, "report"):
        record = run.record(stage)
        if record is None:
            continue
        counts = record.counts
        sampled = counts.get("policy_generated_tokens", counts.get("generated_tokens", 0))
        cells = [stage, f"{record.seconds:.0f}", f"{record.peak_memory_gb:.1f} GB", f"{sampled:,.0f}"]
        cells.append(f"{counts.get('judge_scored_tokens', 0) + counts.get('policy_scored_tokens', 0):,.0f}")
        cells += [f"{counts.get('judge_calls', 0):,.0f}", f"{counts.get('failed', 0):,.0f}"]
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
