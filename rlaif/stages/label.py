"""`label`: the SFT policy answers each prompt several times, and the judge says which of two answers is better.

RL-CAI (arXiv 2212.08073, section 4) and RLAIF (2309.00267): the labels stay soft. A pair that the judge cannot
judge is kept with its reason and counted; it is no tie and no coin flip. With `label.answers: contrast` the answers
come from two contexts of a principle (stages/label_pairs.py), and with `label.source` answers and labels are the user's
own (stages/label_given.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rlaif.core.errors import StageError
from rlaif.core.files import JsonlFile
from rlaif.core.records import LEFT_OUT, PreferenceLabel, Prompt
from rlaif.judge.confounds import confounds
from rlaif.judge.gate import passed_card
from rlaif.stages.context import StageContext
from rlaif.stages.label_given import read_given
from rlaif.stages.label_pairs import LabelPair, PairsFound, balanced, confirmed, find_pairs, silent_slices, taken, told
from rlaif.stages.resume import commonest, resume


def run(context: StageContext) -> dict[str, float]:
    """Writes label/responses.jsonl and label/labels.jsonl; returns counts of pairs, labels and failures by kind."""
    if context.config.label.source is not None:
        return _given(context, context.config.label.source)
    # 1. The answers, and the pairs that they make.
    prompts, table = context.train_prompts(), context.config.label
    found = find_pairs(context, prompts)
    if not found.pairs and context.shard is None:
        raise StageError(
            f"no prompt has two different answers{commonest(found.lost)}",
            where=str(context.folder / "failures.jsonl") if found.lost else "label",
            remedy="raise label.samples or label.temperature",
        )
    # 2. Their labels, and without surplus if asked. What is known of all labels together is no shard's business.
    labels = labelled(context, found, card=passed_card(context.run, context.config))
    if context.shard is None:
        _refuse_silence(context, prompts, labels)
    # 3. What they come to.
    failures = Counter(answer.failure.kind for answer in found.lost)
    failures.update(x.failure.kind for x in labels if x.failure is not None and x.failure.kind not in LEFT_OUT)
    return {
        "prompts": len(prompts),
        "responses": len(found.responses),
        "responses_failed": len(found.lost),
        "responses_finished": sum(r.finish == "stop" for r in found.responses),
        **({"pairs_identical": found.identical} if table.by_contrast else {}),
        **label_counts(labels),
        "failed": sum(failures.values()),
        **{f"failed_{kind}": number for kind, number in sorted(failures.items())},
    }


def _given(context: StageContext, source: str) -> dict[str, float]:
    """Writes the labels of the file; returns what they come to."""
    found = read_given(source, JsonlFile(context.run.file("prompts", "held_out.jsonl"), Prompt).read())
    labels = found.limited(context.limit)
    for note in found.notes:
        context.progress.say(f"  label: {note}")
    JsonlFile(context.folder / "labels.jsonl", PreferenceLabel).replace(labels)
    left_out = {"pairs_held_out": found.held_out, "pairs_unlabelled": found.unlabelled}
    return {"prompts": len({label.comparison.prompt.id for label in labels}), **label_counts(labels), **left_out}


def pairs(context: StageContext) -> list[LabelPair]:
    """The pairs that the judge is asked about; samples the answers that are not there yet."""
    return [p for p in find_pairs(context, context.train_prompts()).pairs if _is_asked(p, context)]


def label_counts(labels: Sequence[PreferenceLabel]) -> dict[str, float]:
    """What labels come to: pairs, labelled ones, those left out, failures, mean confidence and consistency, and how
    often the longer answer is chosen, and the only one that ended."""
    missing = Counter(label.failure.kind for label in labels if label.failure is not None)
    probabilities = [label.prob_a for label in labels if label.prob_a is not None]
    consistencies = [label.consistency for label in labels if label.consistency is not None]
    by_contrast = [label for label in labels if label.answers == "contrast"]
    counts: dict[str, float] = {
        "pairs": len(labels),
        "labelled": len(probabilities),
        "abstained": missing["abstained"],
        "pairs_failed": sum(number for kind, number in missing.items() if kind not in LEFT_OUT),
    }
    if by_contrast:
        counts["pairs_contrast"] = len(by_contrast)
        counts["labelled_contrast"] = sum(label.prob_a is not None for label in by_contrast)
        counts |= {kind: missing[kind] for kind in ("disagreed", "unbalanced")}
    silent = Counter(v.member for label in labels for v in label.verdicts if v.member and v.failure is not None)
    counts.update({f"verdicts_failed_{member}": number for member, number in sorted(silent.items())})
    if probabilities:
        counts["mean_confidence"] = sum(abs(p - 0.5) for p in probabilities) / len(probabilities) + 0.5
    if consistencies:
        counts["consistency"] = sum(consistencies) / len(consistencies)
    measured = confounds(labels)
    shares = {"longer_wins": measured.longer_wins, "finished_wins": measured.finished_wins}
    return counts | {name: share for name, share in shares.items() if share is not None}


def _is_asked(pair: LabelPair, context: StageContext) -> bool:
    return pair.principle is None or context.config.label.confirm


def labelled(context: StageContext, found: PairsFound, *, card: str) -> list[PreferenceLabel]:
    """One label per pair, by the judge with this card or as the answers were made.

    With `label.balance` the file is written anew once all are there; a label that an earlier session left out is first
    what it was before.
    """
    config, pairs = context.config, found.pairs
    judge = context.judge(card=card)

    def label(chunk: Sequence[LabelPair]) -> list[PreferenceLabel]:
        asked = [pair for pair in chunk if _is_asked(pair, context)]
        rules = [pair.rules(judge) for pair in asked]
        made = judge.label_under([pair.comparison for pair in asked], rules) if asked else []
        by_id = {pair.comparison.id: confirmed(pair, said) for pair, said in zip(asked, made, strict=True)}
        return [by_id.get(pair.comparison.id) or taken(pair, config.label, judge.constitution_hash) for pair in chunk]

    file = JsonlFile(context.folder / "labels.jsonl", PreferenceLabel)
    with context.progress.task("judging pairs", len(pairs), "pairs") as task:
        labels = resume(
            found.parts,
            files=(file,),
            keys=lambda pair: [pair.comparison.id],
            key_of=lambda label: label.comparison.id,
            work=label,
            task=task,
        )
    judge.close()
    if not config.label.balance or context.shard is not None:
        return labels
    for place, (pair, made) in enumerate(zip(pairs, labels, strict=True)):
        if made.failure is not None and made.failure.kind == "unbalanced":
            again = judge.settle(pair.comparison, made.verdicts) if _is_asked(pair, context) else None
            labels[place] = (
                taken(pair, config.label, judge.constitution_hash) if again is None else confirmed(pair, again)
            )
    kept = balanced(labels, config.seed)
    if kept != file.read():
        file.replace(kept)
    return kept


def _refuse_silence(context: StageContext, prompts: Sequence[Prompt], labels: Sequence[PreferenceLabel]) -> None:
    """Says which slices have no preference; raises StageError where none has any."""
    kinds = Counter[str](label.failure.kind for label in labels if label.failure is not None)
    if len(labels) == kinds.total():
        reason = next(label.failure.reason for label in labels if label.failure is not None)
        raise StageError(
            f"none of {len(labels)} pairs has a preference: {told(kinds)}; the first: {reason}",
            where=str(context.folder / "labels.jsonl"),
            remedy="choose another judge or judge.method, lower judge.abstain_below, or, for pairs by contrast, set "
            "label.confirm or label.balance to false; then start the stage anew with --force",
        )
    for sentence in silent_slices(prompts, labels):
        context.progress.say(f"  label: {sentence}")
