"""Every figure of the reward model on held-out prompts, computed again: its scores by transformers' own model in
float64, the rest in plain numpy and by scikit-learn."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from torch.func import functional_call
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlaif.core.records import record_seed
from tests.recomputed.plain import Keyed, Row, by_prompt, check, ends, is_about, printed_as, read, records, side, words


class PlainReward:
    """The base model with W + alpha / r * B A in the place of each W, in float64, as transformers has it."""

    def __init__(self, run: Path, source: Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(source)
        self.base = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float64).requires_grad_(False).model
        self.run, self.weights = run, {}
        self.weights = self.changed(run / "sft" / "adapter")
        self.members = [run / "reward" / name for name in ("adapter", "adapter-2")]
        self.constants = [read(folder / "reward.json") for folder in self.members]
        self.adapted = [self.changed(folder) for folder in self.members]
        heads = [load_file(folder / "reward_head.safetensors")["weight"][0] for folder in self.members]
        self.heads = [head.double().numpy() for head in heads]

    def changed(self, folder: Path) -> dict[str, torch.Tensor]:
        saved, config = load_file(folder / "adapter_model.safetensors"), read(folder / "adapter_config.json")
        found = dict(self.weights)
        for name, down in saved.items():
            if "lora_A" in name:
                layer = name.removeprefix("base_model.model.model.").replace(".lora_A", "")
                change = saved[name.replace("lora_A", "lora_B")].double() @ down.double()
                before = found.get(layer, self.base.get_parameter(layer))
                found[layer] = before + config["lora_alpha"] / config["r"] * change
        return found

    def states(self, weights: Any, prompt: Row, answer: Row, *, end: bool) -> np.ndarray:
        """(1 + tokens, H): those of the prompt's last token and of the answer's."""
        text = self.tokenizer.apply_chat_template(prompt["messages"], tokenize=False, add_generation_prompt=True)
        asked = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        ids = self.tokenizer(answer["text"], add_special_tokens=False)["input_ids"]
        ids += [self.tokenizer.eos_token_id] if end or answer["finish"] == "stop" else []
        given = {"input_ids": torch.tensor([[*asked, *ids]])}
        found = functional_call(self.base, weights, kwargs=given).last_hidden_state[0]
        states: np.ndarray = found[len(asked) - 1 :].numpy()
        return states

    def pooled(self, way: str, weights: Any, prompt: Row, answer: Row) -> np.ndarray:
        states = self.states(weights, prompt, answer, end=way == "end")
        mean: np.ndarray = states[min(1, len(states) - 1) :].mean(0)
        return mean if way == "mean" else states[-1]

    def raw(self, prompt: Row, answer: Row) -> list[float]:
        """Of each member."""
        parts = zip(self.constants, self.adapted, self.heads, strict=True)
        return [float(self.pooled(made["pooling"], weights, prompt, answer) @ head) for made, weights, head in parts]


def right(margins: Sequence[float], labels: Sequence[Row]) -> list[tuple[str, float]]:
    """1, a half or 0 for each label with a side."""
    pairs = zip(margins, labels, strict=True)
    return [(n["comparison"]["prompt"]["id"], (1 + np.sign(m) * side(n)) / 2) for m, n in pairs if side(n)]


def pooled_ends(values: Keyed, *, share: bool = True) -> Any:
    """The interval of a mean over all values: the sum that resampled prompts have over how many values they have."""
    names = list(dict.fromkeys(name for name, _ in values))
    sums = [math.fsum(v for n, v in values if n == name) for name in names]
    counts = [sum(n == name for n, _ in values) for name in names]
    whole = fmean(v for _, v in values)
    return ends(lambda s, c: s.sum(-1) / c.sum(-1), whole, len(names), [sums, counts], share=share)


def check_accuracy(row: Row, margins: Sequence[float], labels: Sequence[Row]) -> None:
    values = right(margins, labels)
    assert row["pairs"] == len(values)
    assert row["accuracy"] == is_about(fmean(v for _, v in values) if values else None)
    check((row["low"], row["high"]), pooled_ends(values) if values else None)


def check_figures(report: Row, margins: Sequence[float], labels: Sequence[Row]) -> None:
    predicted = 1 / (1 + np.exp(-np.array(margins)))
    said = np.array([label["prob_a"] for label in labels])
    entropy = [-sum(p * math.log(p) for p in (q, 1 - q) if p) for q in said]
    assert report["pairs"] == len(labels)
    assert report["accuracy"] == is_about(fmean(v for _, v in right(margins, labels)))
    loss = -(said * np.log(predicted) + (1 - said) * np.log(1 - predicted))
    assert report["log_loss"] == pytest.approx(loss.mean(), abs=1e-5)
    assert report["brier"] == pytest.approx(((predicted - said) ** 2).mean(), abs=1e-5)
    assert report["label_entropy"] == pytest.approx(fmean(entropy), abs=1e-9)
    shorter = [len(n["comparison"]["b"]["text"]) - len(n["comparison"]["a"]["text"]) for n in labels]
    assert report["length_accuracy"] == is_about(fmean(v for _, v in right(shorter, labels)))
    off = 0.0
    for one in report["bins"]:
        inside = (predicted >= one["low"]) & (predicted < one["high"])
        assert one["n"] == inside.sum()
        assert one["predicted"] == pytest.approx(predicted[inside].mean(), abs=1e-5)
        assert one["labelled"] == pytest.approx(said[inside].mean(), abs=1e-9)
        off += abs(predicted[inside].sum() - said[inside].sum()) / len(labels)
    assert sum(one["n"] for one in report["bins"]) == len(labels)
    assert report["ece"] == pytest.approx(off, abs=1e-5)


def fitted(rows: np.ndarray, sides: Sequence[float], asked: np.ndarray, strength: float = 1.0) -> np.ndarray:
    model = LogisticRegression(C=strength, fit_intercept=False, max_iter=2000)
    both, targets = np.vstack([rows, -rows]), np.array([*sides, *(-s for s in sides)])
    found: np.ndarray = model.fit(both, targets).decision_function(asked)
    return found


def differences(labels: Sequence[Row], of: Callable[[Row], Any]) -> np.ndarray:
    made = [np.subtract(*(np.asarray(of(n["comparison"][s]), float).ravel() for s in "ab")) for n in labels]
    return np.array(made)


def counted(train: Sequence[Row], of: Callable[[str], str]) -> Callable[[Row], Any]:
    counter = CountVectorizer(ngram_range=(1, 2), binary=True, token_pattern=r"\S+")
    counter.fit([of(n["comparison"][s]["text"]) for n in train for s in "ab"])
    return lambda answer: counter.transform([of(answer["text"])]).toarray()


def test_the_reward_model_on_held_out_prompts(run: Path, finished: Path) -> None:
    report, plain = read(run / "reward" / "held_out.json"), PlainReward(run, finished / "model")
    labels = [n for n in records(run / "label" / "labels.jsonl") if n["prob_a"] is not None]
    prompts = {n["comparison"]["prompt"]["id"]: n["comparison"]["prompt"] for n in labels}
    seed = record_seed  # which half is held out is drawn by a hash that docs/reference/rewards.md names
    ranked = sorted(prompts, key=lambda name: seed(0, "held-out", name))
    chosen = set(ranked[: round(len(ranked) / 2)])
    inside = {
        kept: [n for n in labels if (n["comparison"]["prompt"]["id"] in chosen) == kept] for kept in (True, False)
    }
    held, train = (
        [n for name in prompts for n in rows if n["comparison"]["prompt"]["id"] == name] for rows in inside.values()
    )
    answers = {n["comparison"][s]["id"]: n["comparison"][s] for n in held for s in "ab"}
    raw = {key: plain.raw(prompts[answer["prompt_id"]], answer) for key, answer in answers.items()}
    each = [[raw[n["comparison"]["a"]["id"]][m] - raw[n["comparison"]["b"]["id"]][m] for n in held] for m in (0, 1)]
    margins = [fmean(pair) for pair in zip(*each, strict=True)]

    check_figures(report, margins, held)
    for member, own in zip(report["members"], each, strict=True):
        check_figures(member, own, held)
    assert report["prompts"] == len(chosen)
    spread = [
        pstdev((s - c["mean"]) / c["std"] for s, c in zip(row, plain.constants, strict=True)) for row in raw.values()
    ]
    assert report["disagreement"] == pytest.approx(fmean(spread), abs=1e-4)
    whole = {
        "pairs": len(held),
        "accuracy": report["accuracy"],
        "low": report["accuracy_low"],
        "high": report["accuracy_high"],
    }
    check_accuracy(whole, margins, held)
    kinds: dict[str, Callable[[Row], str]] = {
        "slice": lambda n: n["comparison"]["prompt"]["slice"],
        "answers": lambda n: n["answers"],
        "principle": lambda n: n["principle_id"] or "|".join({v["principle_id"] for v in n["verdicts"]}),
    }
    for kind, of in kinds.items():
        assert [row["name"] for row in report["parts"][kind]] == sorted({of(n) for n in held})
        for row in report["parts"][kind]:
            part = [(m, n) for m, n in zip(margins, held, strict=True) if of(n) == row["name"]]
            check_accuracy(row, [m for m, _ in part], [n for _, n in part])

    sided = [n for n in train if side(n)]
    sides = [side(n) for n in sided]
    texts: dict[str, Callable[[Row], Any]] = {
        "length": lambda r: np.log1p([len(words(r["text"])), len(r["text"])]),
        "finished": lambda r: [r["finish"] == "stop"],
        "refusal opening": lambda r: [0.0],  # none of these does
        "first words": counted(train, lambda text: " ".join(words(text)[:2])),
        "bag of words": counted(train, lambda text: " ".join(words(text))),
        "source": lambda r: [
            r["model"] == w for w in sorted({n["comparison"][s]["model"] for n in train for s in "ab"})
        ],
    }
    found = {row["name"]: row for row in report["predictors"]}
    assert sorted(found) == sorted([*texts, "position"])
    own = right(margins, held)
    for name, row in found.items():
        if name == "position":
            told: Sequence[float] = [1.0 if sum(s > 0 for s in sides) * 2 >= len(sides) else -1.0] * len(held)
        else:
            told = fitted(differences(sided, texts[name]), sides, differences(held, texts[name])).tolist()
        check_accuracy(row, told, held)
        lead = [(prompt, mine - its) for (prompt, mine), (_, its) in zip(own, right(told, held), strict=True)]
        assert row["lead"] == is_about(fmean(v for _, v in lead))
        assert row["lead"] == is_about(report["accuracy"] - row["accuracy"])
        if len({round(v, 9) for v in by_prompt(lead).values()}) > 1:
            check((row["lead_low"], row["lead_high"]), pooled_ends(lead, share=False))
    best = max((row for name, row in found.items() if name != "source"), key=lambda row: row["accuracy"])
    told_of = [report["accuracy"], report["accuracy_low"], report["accuracy_high"]]
    wanted = [*(100 * v for v in told_of), len(own)]
    wanted += [100 * best[key] for key in ("accuracy", "low", "high")]
    assert printed_as(report["verdict"], wanted)

    for way, share in report["probe"]["cross_validated"].items():
        made = differences(sided, lambda r, way=way: plain.pooled(way, plain.weights, prompts[r["prompt_id"]], r))
        groups = [n["comparison"]["prompt"]["id"] for n in sided]
        told = np.zeros(len(sided))
        for learnt, tested in GroupKFold(min(5, len(set(groups)))).split(made, groups=np.array(groups)):
            scale = np.sqrt((made[learnt] ** 2).mean(0)) + 1e-6
            told[tested] = fitted(made[learnt] / scale, [sides[i] for i in learnt], made[tested] / scale, 0.01)
        assert share == is_about(float(((told > 0) == (np.array(sides) > 0)).mean()))
    way = report["probe"]["pooling"]
    assert {way} == {made["pooling"] for made in plain.constants}

    def state(answer: Row) -> np.ndarray:
        return plain.pooled(way, plain.weights, prompts[answer["prompt_id"]], answer)

    learnt = differences(sided, state)
    scale = np.sqrt((learnt**2).mean(0)) + 1e-6
    probe = fitted(learnt / scale, sides, differences([n for n in held if side(n)], state) / scale, 0.01)
    check_accuracy(report["probe"]["held_out"], probe.tolist(), [n for n in held if side(n)])
