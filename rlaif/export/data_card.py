"""The card of an exported data set: what a stranger must know before training on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rlaif.config import RunConfig
from rlaif.core import provenance
from rlaif.core.files import JsonlFile, RunFolder
from rlaif.core.records import LEFT_OUT, Constitution, FailedAnswer, Failure, StageRecord
from rlaif.export import card as cards
from rlaif.judge.card.records import card_of_run
from rlaif.judge.confounds import ConfoundTally
from rlaif.view.text import number, percent

Shape = Literal["preference", "implicit", "kto", "prompt-only", "sft"]

STAGE: dict[Shape, str] = {"preference": "label", "implicit": "label", "kto": "label", "prompt-only": "", "sft": "sft"}
ABOUT: dict[Shape, str] = {
    "preference": "Pairs of answers with the probability, by an AI judge under a constitution, that one is the better.",
    "implicit": "Pairs of conversations with the probability, by an AI judge under a constitution, that one is the "
    "better.",
    "kto": "Answers that an AI judge, under a constitution, preferred or did not prefer to another. Each judged pair "
    "makes two rows; an answer that was compared more than once stands in more than one pair.",
    "prompt-only": "The prompts that a run was trained on.",
    "sft": "Conversations to learn from: answers that a model rewrote itself under a constitution, and answers kept as "
    "they were. Answers that were cut off are left out.",
}
GIVEN = "Pairs of answers with the probability, by labels that were given to a run, that one is the better."
TASKS: dict[Shape, str] = {"prompt-only": "text-generation", "sft": "text-generation"}
JUDGED_COLUMNS = {
    "prob_chosen": "the judge's probability that the chosen answer is the better one, above 0.5",
    "margin": "2 prob_chosen - 1. TRL's RewardTrainer subtracts a column of this name in its loss (Llama 2's margin); "
    "remove the column for the plain loss",
    "principle_votes": "the same probability under each principle that the judge answered for, below 0.5 where that "
    "principle would rather have the rejected answer",
    "slice": "the set of prompts",
    "prompt_columns": "what the prompt's file says of it in columns of its own, as JSON; empty for nothing",
    "answers": "policy: both answers were sampled alike; contrast: one was asked to follow a principle, the other to "
    "violate it; given: the pair is from a file of labels",
    "judge_card": "the id of the judge's card that the label stands on",
    "constitution_hash": "of the constitution that the label was made under",
    "id": "of the record in the run",
}
PAIR = {"chosen_finished, rejected_finished": "the answer ended by itself; false: it was cut off at the token limit"}
COLUMNS: dict[Shape, dict[str, str]] = {
    "preference": {
        "prompt": "the conversation up to the answer, as messages",
        "chosen, rejected": "the better and the worse answer, as messages",
        **PAIR,
        **JUDGED_COLUMNS,
    },
    "implicit": {"chosen, rejected": "the whole conversation with either answer", **PAIR, **JUDGED_COLUMNS},
    "kto": {
        "prompt": "the conversation up to the answer, as messages",
        "completion": "the answer, as messages",
        "label": "true: it was preferred to the other answer of its pair",
        "finished": "the answer ended by itself; false: it was cut off at the token limit",
        **JUDGED_COLUMNS,
    },
    "prompt-only": {"prompt": "the conversation, as messages", "slice, tags, prompt_columns, id": "of the prompt"},
    "sft": {
        "messages": "the conversation with its answer",
        "kind": "revision: rewritten under a principle; helpful: kept as it was",
        "slice, prompt_columns, id": "of the prompt; the last of the example in the run",
    },
}
SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))


@dataclass(slots=True)
class DataFacts:
    """What became of the records, counted on the way. `rows`: by split; `reasons`: an example of each kind of
    failure."""

    records: int = 0
    rows: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    reasons: dict[str, str] = field(default_factory=dict)
    constitutions: set[str] = field(default_factory=set)
    cards: set[str] = field(default_factory=set)
    judges: set[tuple[str, str]] = field(default_factory=set)
    tally: ConfoundTally = field(default_factory=ConfoundTally)

    def failed(self, failure: Failure) -> None:
        """Counts a label without a preference."""
        name = f"no preference: {failure.kind}" if failure.kind in LEFT_OUT else f"the judge failed: {failure.kind}"
        self.left_out[name] += 1
        self.reasons.setdefault(name, failure.reason)

    def told(self) -> str:
        """What was left out, in a line."""
        return ", ".join(f"{count:,} {why}" for why, count in self.left_out.most_common()) or "there is no record"


def data_card(
    run: RunFolder,
    config: RunConfig,
    constitution: Constitution,
    shape: Shape,
    facts: DataFacts,
    *,
    name: str,
    subset: str,
    files: Mapping[str, str],
    grouped: str,
    command: str,
) -> str:
    """The README.md. `subset` is the name by which `datasets` keeps the rows, so another for other rows; `files`: split
    -> its file; `grouped`: what was done about near-duplicates and splits."""
    stage = STAGE[shape]
    given = config.given_labels and stage == "label"
    record = run.record(stage) if stage else None
    parts = [
        f"# {cards.plain(name)}",
        f"{GIVEN if given else ABOUT[shape]} Made with rlaif.",
        f"{cards.origin(run, config, constitution)}\n- Made with `{command}`",
        cards.fenced(f'from datasets import load_dataset\n\nrows = load_dataset("{name}", split="train")', "python"),
        "## Columns",
        cards.table(["column", "meaning"], [(cards.code(k), v) for k, v in COLUMNS[shape].items()]),
        "## What is in it, and what is not",
        _counts(facts, list(files)),
        grouped,
    ]
    if stage == "label":
        parts += [_lost(run), "## What else tells the chosen answer", _confounds(facts)]
    if stage == "label" and not given:
        parts += ["## The judge", _judge(run, config, facts)]
    if stage and not given:
        text = run.constitution_path.read_text(encoding="utf-8")
        parts += ["## The constitution", cards.fenced(text, "yaml")]
    parts += ["## How it was made", _origin(config, stage, record)]
    parts.append(
        "Nothing is known here of licences: the prompts have those of their sources, and what a model wrote is under "
        "the terms of that model. No step of a run has a person look the texts through."
    )
    return cards.page(_metadata(shape, facts.rows.total(), subset, files), [part for part in parts if part])


def _metadata(shape: Shape, rows: int, subset: str, files: Mapping[str, str]) -> Any:
    from huggingface_hub import DatasetCardData

    size = next((name for least, name in SIZES if rows < least), "n>10M")
    placed = [{"split": split, "path": f"data/{file}"} for split, file in files.items()]
    return DatasetCardData(
        task_categories=TASKS.get(shape, "reinforcement-learning"),
        size_categories=size,
        tags=[*cards.TAGS, "trl", *([] if shape in TASKS else ["preference", "synthetic"])],
        configs=[{"config_name": subset, "default": True, "data_files": placed}],
    )


def _counts(facts: DataFacts, splits: Sequence[str]) -> str:
    lines: list[Sequence[object]] = [("records in the run", f"{facts.records:,}", "")]
    for why, count in facts.left_out.most_common():
        lines.append((f"left out: {why}", f"{count:,}", facts.reasons.get(why, "")[:160]))
    lines.append(("rows here", f"{facts.rows.total():,}", ""))
    lines += [(f"of these in {split}", f"{facts.rows[split]:,}", "") for split in splits if len(splits) > 1]
    return cards.table(["", "number", "for example"], lines)


def _lost(run: RunFolder) -> str:
    """The answers that the policy could not give, of which there is no pair."""
    kinds = Counter(lost.failure.kind for lost in JsonlFile(run.file("label", "failures.jsonl"), FailedAnswer))
    if not kinds:
        return ""
    said = ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common())
    return f"Besides, {sum(kinds.values()):,} answers could not be sampled ({said}), so there is no pair of them."


def _confounds(facts: DataFacts) -> str:
    """What a model could learn from the rows in place of the constitution."""
    found = facts.tally.shares()
    rows = [
        ("it is the longer one, where one is", percent(found.longer_wins)),
        ("it is the only one that ended, where one did", percent(found.finished_wins)),
        ("it is the only one that opens with a refusal, where one does", percent(found.refusal_wins)),
    ]
    text = cards.table(["of the chosen answer", "share"], rows)
    words = ", ".join(f"{cards.plain(w.word)} ({w.chosen:,} v {w.rejected:,})" for w in found.first_words)
    said = f"First words that tell most, chosen v rejected: {words}." if words else ""
    return f"A share far from 50% can be learnt in place of the constitution.\n\n{text}\n\n{said}".rstrip()


def _judge(run: RunFolder, config: RunConfig, facts: DataFacts) -> str:
    """Who judged, how, and what its card says of it."""
    who = [f"{cards.plain(judge)} by `{method}`" for judge, method in sorted(facts.judges)]
    lines = [f"- Asked: {', '.join(who) or 'nobody; the answers were made to differ, and no judge confirmed them'}"]
    changed = {
        name: value
        for name, value in config.judge.settings().items()
        if value != type(config.judge).model_fields[name].get_default(call_default_factory=True)
        and name not in ("backend", "base_url", "source", "method")
    }
    lines += [f"- {cards.code(f'judge.{name}')}: {cards.plain(value)}" for name, value in changed.items()]
    card = card_of_run(run)
    stood_on = sorted(facts.cards - {""})
    if stood_on and (card is None or card.id not in stood_on):
        lines.append(f"- The labels stand on the card `{cards.plain(', '.join(stood_on))}`, which is not in the run")
    lines += [f"- {cards.plain(said)}" for said in (() if card is None else card.verdict)]
    return "\n".join(lines)


def _origin(config: RunConfig, stage: str, record: StageRecord | None) -> str:
    """Prompts, policy, cost and versions. Of paths the last name is told: the rest is of a machine."""
    prompts = [
        f"{cards.plain(name)} ({part.train:,} of {cards.plain(Path(part.source).name)})"
        for name, part in config.prompts.items()
        if part.train
    ]
    lines = [f"- Prompts: {', '.join(prompts) or 'unknown'}"]
    model = cards.model_name(config.model.source)
    if stage == "label" and not config.given_labels:
        label = config.label
        sampled = f"temperature {label.temperature:g}, at most {label.max_new_tokens} tokens"
        lines.append(f"- Answers: of {model} after SFT, `label.answers: {label.answers}`, {sampled}")
    elif stage == "sft":
        lines.append(f"- Answers: of {model}")
    if record is not None:
        asked = [
            f"{number(value)} {name.replace('_', ' ')}"
            for name, value in record.counts.items()
            if value and name.startswith(("judge_", "policy_"))
        ]
        where = cards.plain(record.hardware)
        took = f"{record.seconds / 60:.1f} minutes of the stage {stage} on {where}"
        lines.append(f"- Cost: {', '.join([took, *map(cards.plain, asked)])}")
        lines.append(f"- Versions: {cards.plain(', '.join(f'{k} {v}' for k, v in record.versions.items()))}")
    lines.append(f"- rlaif {provenance.package_version('rlaif')} {provenance.git_revision()}".rstrip())
    lines.append(f"- Seed: {config.seed}")
    return "\n".join(lines)
