"""The `sft` stage: trains the policy on accepted revisions, mixed with helpful answers (2212.08073, section 3.2).

1. Departure from the paper: only *accepted* revisions are learnt from, and the SFT starts from the run's model.
2. An answer that was cut off at its token limit must not teach to stop mid-sentence. It is cut back to its last full
   sentence and ended there if that keeps half of its words; else its text is learnt without an end.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from typing import Literal

from rlaif.core.errors import StageError
from rlaif.core.files import JsonlFile, write_folder
from rlaif.core.records import Response, RevisionTrace, SftExample, record_seed
from rlaif.lm.local.load import context_length, load_model, save_adapter
from rlaif.stages.context import StageContext
from rlaif.training import sft

_SENTENCE_END = re.compile(r"[.!?…。！？][\"'”’)\]*]*(?=\s|$)|[。！？]")


def run(context: StageContext) -> dict[str, float]:
    """Counts of the stage, after `sft/adapter` has been trained on `sft/examples.jsonl`."""
    config = context.config.sft
    examples = select_examples(context.traces(), helpful_ratio=config.helpful_ratio, seed=context.config.seed)
    if not any(example.kind == "revision" for example in examples):
        raise StageError(
            "no revision was accepted, so there is nothing to learn from",
            where=str(context.run.file("revise", "traces.jsonl")),
            remedy="lower revise.gate, raise revise.candidates or the number of prompts, or use a stronger model; "
            "`rlaif show` prints the traces with what the judge said of each revision",
        )
    file = JsonlFile(context.folder / "examples.jsonl", SftExample)
    file.path.unlink(missing_ok=True)  # left by a start that was interrupted; the choice is made anew, and the same
    file.append(examples)

    loaded = load_model(context.config.model)
    limit = min(config.max_length, context_length(loaded.model))
    rows = [sft.encode_example(loaded.tokenizer, example) for example in examples]
    kept = [row for row in rows if len(row["input_ids"]) <= limit]
    dropped = len(rows) - len(kept)
    if dropped:
        context.progress.say(f"  sft: {dropped} of {len(rows)} examples are longer than {limit} tokens and left out")
    if not kept:
        raise StageError(
            f"all {len(rows)} examples are longer than {limit} tokens",
            where="sft.max_length",
            remedy="raise sft.max_length, or lower revise.max_new_tokens",
        )
    checkpoints = context.folder / "checkpoints"
    model = sft.train(
        loaded,
        kept,
        config,
        seed=context.config.seed,
        checkpoints=checkpoints,
        metrics=context.metrics,
        progress=context.progress,
    )
    write_folder(context.adapter("sft"), lambda folder: save_adapter(model, folder))
    shutil.rmtree(checkpoints, ignore_errors=True)
    metrics = context.metrics.read()
    return {
        "examples_revision": float(sum(example.kind == "revision" for example in examples)),
        "examples_helpful": float(sum(example.kind == "helpful" for example in examples)),
        "examples_unfinished": float(sum(example.finish == "length" for example in examples)),
        "dropped_too_long": float(dropped),
        "trained_tokens": float(sum(label != -100 for row in kept for label in row["labels"])),
        "steps": float(len(metrics)),
        "loss_first": float(metrics[0]["loss"]),
        "loss_last": float(metrics[-1]["loss"]),
    }


def select_examples(traces: Sequence[RevisionTrace], *, helpful_ratio: float, seed: int) -> list[SftExample]:
    """All accepted revisions, then up to `helpful_ratio` helpful answers for each of them, drawn by `seed`.

    A helpful answer is that of a trace without rounds: a prompt whose answers are kept as they are. Empty answers
    teach nothing and are not taken.
    """
    revisions = [_example(trace.final, trace, "revision") for trace in traces if trace.revised]
    revisions = [example for example in revisions if example.response.strip()]
    helpful = [trace for trace in traces if not trace.rounds and trace.response.text.strip()]
    helpful.sort(key=lambda trace: record_seed(seed, "sft", trace.id))
    taken = helpful[: round(helpful_ratio * len(revisions))]
    return revisions + [_example(trace.response, trace, "helpful") for trace in taken]


def _example(response: Response, trace: RevisionTrace, kind: Literal["revision", "helpful"]) -> SftExample:
    text, ended = response.text, True
    if response.finish == "length":
        text, ended = end_at_sentence(response.text)
    return SftExample(trace.prompt, text, kind, trace.id, finish="stop" if ended else "length")


def end_at_sentence(text: str) -> tuple[str, bool]:
    """(text up to its last sentence end, True) if that keeps half of the words, else (text, False)."""
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    kept = text[: ends[-1]] if ends else ""
    if kept and 2 * len(kept.split()) >= len(text.split()):
        return kept, True
    return text, False
