"""Every figure of evaluate and of the labels' agreement with gold, computed again from the records of a run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, pstdev

import numpy as np
import pytest
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from tests.recomputed.plain import (
    MODELS,
    SAMPLES,
    Evaluation,
    Interval,
    Keyed,
    Row,
    by_prompt,
    check,
    gap_interval,
    grams,
    interval,
    is_about,
    read,
    records,
    words,
)


def test_the_measures_of_each_answer_are_those_of_its_text(run: Path) -> None:
    of = Evaluation(run)
    base = {row["response_id"]: row for row in of.logprobs if row["model"] == "base"}
    assert len(of.scores) == (3 * SAMPLES + 1) * len(of.prompts)  # of the best of n one a prompt
    for key, row in of.scores.items():
        text, pairs, fours = of.responses[key]["text"], *(grams(of.responses[key]["text"], n) for n in (2, 4))
        assert row["words"] == len(words(text)), text
        assert row["finished"] == (of.responses[key]["finish"] == "stop")
        assert row["distinct_2"] == is_about(len(set(pairs)) / len(pairs) if pairs else None)
        assert row["repetition"] == is_about(1 - len(set(fours)) / len(fours) if fours else 0.0)
        assert row["sentiment"] == SentimentIntensityAnalyzer().polarity_scores(text)["compound"]
        known = base.get(key)
        likelihood = known["logprob"] / known["tokens"] if known and known["tokens"] else None
        assert row["base_logprob"] == is_about(likelihood)


def test_every_cell_of_the_evaluation(run: Path) -> None:
    of = Evaluation(run)
    seen = set()
    for cell in of.summary["cells"]:
        place = (cell["model"], cell["slice"], cell["measure"])
        share = of.is_share(cell["measure"])
        own, reference = of.values(*place), of.values("sft", *place[1:])
        means, theirs = by_prompt(own), by_prompt(reference)
        assert cell["n"] == len(own)
        assert cell["mean"] == is_about(fmean(means.values()))
        check((cell["low"], cell["high"]), interval(list(means.values()), share=share))
        seen.add(place)
        if cell["model"] == "sft":
            assert (cell["difference"], cell["prompts"]) == (None, len(means))
            continue
        gaps = [means[name] - theirs[name] for name in means if name in theirs]
        assert (cell["difference"], cell["prompts"]) == (is_about(fmean(gaps)), len(gaps))
        check((cell["difference_low"], cell["difference_high"]), gap_interval(gaps, share=share))
    every = {(m, s, key) for m in MODELS for s in of.slices for key in of.summary["measures"]}
    assert seen == {place for place in every if of.values(*place)}
    assert tuple(of.summary["models"]) == MODELS


def at_no_x(x: np.ndarray, y: np.ndarray, whole: float) -> np.ndarray:
    """What the least-squares line over the last axis is at x = 0; with the slope `whole` where all x are alike."""
    off = x - x.mean(-1, keepdims=True)
    squares = (off**2).sum(-1)
    steep = np.where(squares < 1e-18, whole, (off * y).sum(-1) / np.where(squares < 1e-18, 1.0, squares))
    return np.asarray(y.mean(-1) - steep * x.mean(-1))


def test_differences_at_equal_length_and_in_standard_deviations(run: Path) -> None:
    of = Evaluation(run)
    length = {key: math.log(max(len(words(row["text"])), 1)) for key, row in of.responses.items()}
    cells = {(cell["model"], cell["slice"], cell["measure"]): cell for cell in of.summary["cells"]}
    wanted = [place for place, cell in cells.items() if place[2] in ("sentiment", "toxicity") and place[0] != "sft"]
    found = {(row["model"], row["slice"], row["measure"]): row for row in of.summary["length_controlled"]}
    assert list(found) == wanted
    for place, row in found.items():
        model, part, measure = place
        logs = {
            name: by_prompt(
                [
                    (score["prompt_id"], length[key])
                    for key, score in of.scores.items()
                    if (score["model"], score["slice"]) == (name, part)
                ]
            )
            for name in (model, "sft")
        }
        means = {name: by_prompt(of.values(name, part, measure)) for name in (model, "sft")}
        x, y = (np.array([both[model][p] - both["sft"][p] for p in means[model]]) for both in (logs, means))
        assert row["n"] == len(x)
        spread = pstdev(value for _, value in of.values("sft", part, measure))
        assert row["sd"] == (is_about(spread) if spread else None)
        for name in ("", "_low", "_high"):
            whole = cells[place][f"difference{name}"]
            assert row[f"effect{name}"] == is_about(whole / spread if spread else None)
        if len(x) < 3:
            assert row["difference"] is None
            continue
        level = np.polyfit(x, y, 1)
        assert row["difference"] == pytest.approx(level[1], abs=1e-9)
        bounds = (row["difference_low"], row["difference_high"])
        if np.ptp(y) == 0:
            assert bounds == (cells[place]["difference_low"], cells[place]["difference_high"])
        else:
            check(bounds, Interval(lambda a, b, steep=level[0]: at_no_x(a, b, steep), x, y))


def wins(labels: Sequence[Row]) -> Keyed:
    p = [(label["comparison"]["prompt"]["id"], label["prob_a"]) for label in labels]
    return [(name, 1.0 if v > 0.5 else 0.5 if v == 0.5 else 0.0) for name, v in p if v is not None]


def test_win_rates(run: Path) -> None:
    of = Evaluation(run)
    places = [(a, b, part) for a, b in (("ppo", "sft"), ("sft", "base"), ("ppo", "base")) for part in of.slices]
    for kind in ("win_rates", "win_rates_length_matched"):
        assert [(row["model"], row["against"], row["slice"]) for row in of.summary[kind]] == places
        for row, (first, second, part) in zip(of.summary[kind], places, strict=True):
            judged = [
                label
                for label in of.labels
                if [label["comparison"][side]["model"] for side in "ab"] == [first, second]
                and label["comparison"]["prompt"]["slice"] == part
            ]
            asked = SAMPLES * list(of.prompts.values()).count(part)
            if kind == "win_rates_length_matched":
                sizes = [[len(words(label["comparison"][side]["text"])) for side in "ab"] for label in judged]
                judged = [label for label, (a, b) in zip(judged, sizes, strict=True) if abs(a - b) <= max(a, b) / 4]
                asked = len(judged)
            own = wins(judged)
            means = list(by_prompt(own).values())
            assert (row["scored"], row["unscored"], row["prompts"]) == (len(own), asked - len(own), len(means))
            assert row["rate"] == is_about(fmean(means) if means else None)
            check((row["low"], row["high"]), interval(means, share=True) if means else None)


def test_kl_and_word_pairs_of_a_slice(run: Path) -> None:
    of = Evaluation(run)
    found = {(row["model"], row["slice"]): row for row in of.summary["kl"]}
    assert list(found) == [(model, part) for model in ("ppo", "best-of-2") for part in of.slices]
    rows = {(row["response_id"], row["model"]): row for row in of.logprobs if row["temperature"] == 0.8}
    counts = read(run / "evaluate" / "stage.json")["counts"]
    for part in of.slices:
        own = [
            key for key, row in of.responses.items() if row["model"] == "ppo" and of.prompts[row["prompt_id"]] == part
        ]
        own = [key for key in own if (key, "ppo") in rows]
        gaps = [
            (rows[key, "ppo"]["prompt_id"], rows[key, "ppo"]["logprob"] - rows[key, "sft"]["logprob"]) for key in own
        ]
        tokens = by_prompt([(rows[key, "ppo"]["prompt_id"], rows[key, "ppo"]["tokens"]) for key in own])
        means = by_prompt(gaps)
        row = found["ppo", part]
        assert (row["n"], row["mean"]) == (len(gaps), is_about(fmean(means.values())))
        each = [means[name] / tokens[name] for name in means]
        assert row["per_token"] == is_about(fmean(each))
        check((row["low"], row["high"]), interval(list(means.values())))
        check((row["per_token_low"], row["per_token_high"]), interval(each))
        assert counts[f"kl_ppo_v_sft_{part}"] == row["mean"]  # and not that of the best of n, which has its own row
        assert found["best-of-2", part]["mean"] == is_about(math.log(2) - 1 / 2)
        texts = {
            model: [
                r["text"] for r in of.responses.values() if r["model"] == model and of.prompts[r["prompt_id"]] == part
            ]
            for model in MODELS
        }
        budget = min(sum(len(grams(text, 2)) for text in of_model) for of_model in texts.values())
        pairs = {row["model"]: row for row in of.summary["set_distinct_2"] if row["slice"] == part}
        for model, of_model in texts.items():
            left, kept = budget, []
            lists = sorted((grams(text, 2) for text in of_model), key=len)
            for place, own_pairs in enumerate(lists):
                taken = own_pairs[: left // (len(lists) - place)]
                left, kept = left - len(taken), kept + taken
            assert pairs[model]["pairs"] == budget == len(kept)
            assert pairs[model]["value"] == is_about(len(set(kept)) / len(kept))


def test_how_far_gold_agrees_with_the_labels(run: Path) -> None:
    from profanity_check import predict_prob

    feeling = SentimentIntensityAnalyzer().polarity_scores
    measured = {"sentiment": lambda text: feeling(text)["compound"], "toxicity": lambda t: -float(predict_prob([t])[0])}
    labels = [label for label in records(run / "label" / "labels.jsonl") if label["prob_a"] is not None]
    found = {
        (r["answers"], r["slice"], r["gold"]): r["share"] for r in read(run / "evaluate/label_agreement.json")["rows"]
    }
    places = set()
    for kind in ("policy", "contrast"):
        for part in ("", "everyday", "mine"):
            for gold, score in measured.items():
                votes = []
                for label in labels:
                    pair = label["comparison"]
                    if label["answers"] != kind or part not in ("", pair["prompt"]["slice"]):
                        continue
                    gap = score(pair["a"]["text"]) - score(pair["b"]["text"])
                    if gap:
                        side = np.sign(label["prob_a"] - 0.5)
                        votes.append((pair["prompt"]["id"], float((1 + side * np.sign(gap)) / 2)))
                if not votes:
                    continue
                places.add((kind, part, gold))
                share, means = found[kind, part, gold], list(by_prompt(votes).values())
                assert (share["n"], share["prompts"]) == (len(votes), len(means))
                assert share["mean"] == is_about(fmean(means))
                check((share["low"], share["high"]), interval(means, share=True))
    assert places == set(found)
    assert len(places) > 5
