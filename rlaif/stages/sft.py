"""The `sft` stage: trains the policy on accepted revisions, mixed with helpful answers (2212.08073, section 3.2).

1. The loss is on the response only, by TRL's SFTTrainer on rows that are tokenised here.
2. Departure from the paper: only *accepted* revisions are learnt from, and the SFT starts from the run's model.
3. An answer that was cut off at its token limit must not teach to stop mid-sentence. It is cut back to its last full
   sentence and ended there if that keeps half of its words; else its text is learnt without an end.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from typing import Any, Literal

import torch
from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from rlaif.core.errors import StageError
from rlaif.core.files import JsonlFile, disk_errors
from rlaif.core.records import Response, RevisionTrace, SftExample, record_seed
from rlaif.lm.local.load import (
    LoadedModel,
    context_length,
    encode_chat,
    encode_text,
    load_model,
    lora_config,
    takes_lora,
)
from rlaif.stages.context import StageContext
from rlaif.training import hf_trainer as loop

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
    rows = [encode_example(loaded.tokenizer, example) for example in examples]
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
    metrics = _train(context, loaded, kept)
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


def encode_example(tokenizer: Any, example: SftExample) -> dict[str, list[int]]:
    """`input_ids` of chat and response, and `labels`, -100 where no loss is taken: all of the prompt."""
    prompt = encode_chat(tokenizer, example.prompt.messages)
    end = [tokenizer.eos_token_id] if example.finish == "stop" else []
    response = encode_text(tokenizer, example.response) + end
    return {"input_ids": prompt + response, "labels": [-100] * len(prompt) + response}


def _train(context: StageContext, loaded: LoadedModel, rows: list[dict[str, list[int]]]) -> list[dict[str, Any]]:
    """The metrics rows, after the adapter has been saved and the checkpoints removed."""
    config = context.config.sft
    schedule = loop.Schedule(rows=len(rows), batch_size=config.batch_size, epochs=config.epochs)
    order = loop.training_order([len(row["input_ids"]) for row in rows], schedule, context.config.seed)
    folder = loop.checkpoint_folder(
        context.folder / "checkpoints",
        "sft",
        context.config.seed,
        config.model_dump(exclude={"save_steps"}),
        loaded.fingerprint,
        rows,
    )
    arguments = loop.trainer_arguments(
        output_dir=folder,
        schedule=schedule,
        learning_rate=config.learning_rate,
        save_steps=config.save_steps,
        seed=context.config.seed,
        device=loaded.device.type,
    )
    with loop.quiet(), takes_lora(loaded.name):
        trainer = SFTTrainer(
            model=loaded.model,
            args=loop.on_one_device(
                SFTConfig(
                    **arguments,
                    max_length=None,  # nothing is cut: over-long rows are left out and counted
                    packing=False,
                    dataset_kwargs={"skip_prepare_dataset": True},
                    gradient_checkpointing=False,
                    bf16=loaded.dtype == torch.bfloat16,  # autocast; the LoRA weights themselves stay float32
                )
            ),
            train_dataset=Dataset.from_list([rows[i] for i in order]),
            processing_class=loaded.tokenizer,
            peft_config=lora_config(config),
        )
    metrics = loop.train(
        "sft", trainer, schedule, {"mean_token_accuracy": "token_accuracy"}, context.metrics, context.progress
    )
    temporary = context.folder / "adapter.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    with disk_errors(temporary):
        trainer.model.save_pretrained(str(temporary))
    loop.replace_folder(temporary, context.adapter("sft"))
    shutil.rmtree(context.folder / "checkpoints", ignore_errors=True)
    return metrics
