"""`rlaif export VERB`: what leaves a run, as a folder that loads elsewhere. Heavy imports stand in the verbs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rlaif.cli.options import Command, JsonOption, Verbs, add_verbs
from rlaif.core.errors import ConfigError, near
from rlaif.core.terminal import say, waiting

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rlaif.export.push import Kind
    from rlaif.export.source import Policy

RunOption = Annotated[Path, typer.Option("--run", metavar="RUN", help="the run folder")]
OutOption = Annotated[Path, typer.Option("--out", metavar="FOLDER", help="where to write; a new folder")]
PushOption = Annotated[
    str | None,
    typer.Option("--push-to-hub", metavar="OWNER/NAME", help="also put it on the Hugging Face hub; if new, private"),
]
ForceOption = Annotated[bool, typer.Option("--force", help="replace an earlier export that stands there")]
FormOption = Annotated[
    str,
    typer.Option(
        "--form",
        metavar="merged|adapter",
        help="merged: a whole model for transformers and vLLM; adapter: one LoRA adapter for peft on the run's base",
    ),
]


def _policy(which: Policy, about: str) -> Command:
    """The verb that writes one of the policies."""

    def verb(
        run: RunOption,
        out: OutOption,
        form: FormOption = "merged",
        push: PushOption = None,
        force: ForceOption = False,
        as_json: JsonOption = False,
    ) -> None:
        from rlaif.core.files import RunFolder

        _one_of("--form", form, ("merged", "adapter"))
        _look(run, push)
        with waiting("loading"):
            from rlaif.export.policy import export_policy
        found = export_policy(RunFolder(run), which, out, form=form, force=force)  # type: ignore[arg-type]
        _wrote(found.as_json(), out, push, as_json)

    verb.__doc__ = about
    return verb


def reward(
    run: RunOption,
    out: OutOption,
    member: Annotated[
        int | None, typer.Option("--member", metavar="N", min=1, help="of an ensemble, the Nth reward model")
    ] = None,
    push: PushOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write the reward model as a classifier of plain transformers, with the run's own scores."""
    from rlaif.core.files import RunFolder

    _look(run, push)
    with waiting("loading"):
        from rlaif.export.reward import export_reward
    found = export_reward(RunFolder(run), out, member=member, force=force)
    _wrote(found.as_json(), out, push, as_json)


def data(
    run: RunOption,
    out: OutOption,
    shape: Annotated[
        str,
        typer.Option(
            "--shape",
            metavar="SHAPE",
            help="preference (prompt, chosen, rejected), implicit (chosen, rejected), kto (prompt, completion, label), "
            "prompt-only, or sft (messages): the shapes of TRL",
        ),
    ] = "preference",
    file_format: Annotated[str, typer.Option("--format", metavar="parquet|jsonl", help="of the file")] = "parquet",
    min_confidence: Annotated[
        float | None,
        typer.Option(
            "--min-confidence", metavar="P", min=0.5, max=1, help="leave out pairs with a less sure label, such as 0.7"
        ),
    ] = None,
    slices: Annotated[
        list[str] | None, typer.Option("--slice", metavar="NAME", help="take only this slice; may be repeated")
    ] = None,
    min_agreement: Annotated[
        float | None,
        typer.Option(
            "--min-agreement",
            metavar="S",
            min=0,
            max=1,
            help="leave out pairs whose chosen answer is preferred by less than this share of the principles",
        ),
    ] = None,
    principles: Annotated[
        list[str] | None,
        typer.Option(
            "--principle", metavar="ID", help="take only pairs whose chosen answer it prefers; may be repeated"
        ),
    ] = None,
    near_duplicates: Annotated[
        float | None,
        typer.Option(
            "--near-duplicates",
            metavar="S",
            min=0.5,
            max=1,
            help="leave out prompts that share this much of their letters with an earlier one, such as 0.8",
        ),
    ] = None,
    balance: Annotated[
        bool, typer.Option("--balance", help="as many pairs that prefer the longer answer as the shorter one")
    ] = False,
    splits: Annotated[
        list[str] | None,
        typer.Option(
            "--split", metavar="NAME=SHARE", help="one more split beside train, such as test=0.1; may be repeated"
        ),
    ] = None,
    push: PushOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write the labels, the prompts or the SFT examples as a data set with its card."""
    from rlaif.core.files import RunFolder
    from rlaif.export.data import FORMATS, SHAPES, DataRequest, export_data
    from rlaif.export.splits import read_splits

    _one_of("--shape", shape, SHAPES)
    _one_of("--format", file_format, FORMATS)
    _look(run, push)
    request = DataRequest(
        shape,  # type: ignore[arg-type]
        file_format,  # type: ignore[arg-type]
        min_confidence,
        tuple(slices or ()),
        min_agreement,
        tuple(principles or ()),
        near_duplicates,
        balance,
        read_splits(splits or ()),
    )
    found = export_data(RunFolder(run), out, request, force=force)
    if not as_json:
        parts = [f"{rows:,} {split}" for split, rows in found.splits.items()]
        parted = f" ({', '.join(parts)})" if len(parts) > 1 else ""
        say(f"{found.rows:,} rows{parted}" + "".join(f"; left out: {n:,} {why}" for why, n in found.left_out.items()))
    _wrote(found.as_json(), out, push, as_json, kind="dataset")


def _look(run: Path, push: str | None) -> None:
    """Raises for what is no run, and for a hub that would refuse, before hours of work."""
    from rlaif.core.shard import refuse_no_whole_run

    refuse_no_whole_run(run)
    if push is not None:
        from rlaif.export.push import refuse_hub

        refuse_hub(push)


def _one_of(option: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        what = f"no such {option.strip('-')}: {value!r}{near(value, known)}"
        raise ConfigError(what, where=option, remedy=f"write one of {', '.join(known)}")


def _wrote(found: Mapping[str, object], out: Path, push: str | None, as_json: bool, *, kind: Kind = "model") -> None:
    """Says what was written, and puts it on the hub where that was asked for."""
    if not as_json:
        say(f"wrote {out}; {out / 'README.md'} says what it is and how to load it")
    if push is not None:
        from rlaif.export.push import push as put

        found = {**found, "hub": put(out, push, kind)}
    if as_json:
        say(json.dumps(found))
    elif push is not None:
        say(f"on the hub: {found['hub']}; a new repository is private")


VERBS: dict[str, Command] = {
    "policy": _policy("policy", "Write the policy after PPO."),
    "dpo": _policy("dpo", "Write the policy after DPO."),
    "sft": _policy("sft", "Write the policy after SFT."),
    "reward": reward,
    "data": data,
}
"""Verb -> the function that does it."""


def export_app() -> typer.Typer:
    """The sub-app with every verb."""
    about = "Write what a run made as a folder that loads elsewhere."
    return add_verbs(typer.Typer(help=about, no_args_is_help=True, cls=Verbs), VERBS)
