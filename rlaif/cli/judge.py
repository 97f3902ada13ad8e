"""`rlaif judge VERB`: measure a judge, ask it by files, or serve its scores. Heavy imports stand in the verbs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from rlaif.cli.options import (
    AcceptOption,
    Command,
    HtmlOption,
    JsonOption,
    JudgeConfigOption,
    ObjectOption,
    ReplaceOption,
    SetOption,
    Verbs,
    accepting,
    add_verbs,
)
from rlaif.core.errors import ConfigError, near
from rlaif.core.terminal import say, waiting

GoldOption = Annotated[
    str,
    typer.Option(
        "--gold",
        metavar="GOLD",
        help="pairs whose better answer is known: a JSONL file with prompt, chosen, rejected; pyrit (people's ratings "
        "of harm); hhh (Anthropic's pairs, labelled by people); verifiable (right or wrong by rule); or "
        "tests:CONSTITUTION",
    ),
]
ConstitutionOption = Annotated[
    str | None, typer.Option("--constitution", metavar="NAME-or-FILE", help="judge under this one, not the config's")
]
OnlyOption = Annotated[
    list[str] | None, typer.Option("--only", metavar="ID-or-TAG", help="judge under the principles with this id or tag")
]
PairsOption = Annotated[int, typer.Option("--pairs", metavar="N", min=0, help="draw N pairs of gold; 0 = all")]
RunOption = Annotated[Path, typer.Option("--run", metavar="RUN", help="the run folder, after its sft stage")]


def card(
    gold: GoldOption,
    config: JudgeConfigOption = None,
    overrides: SetOption = None,
    constitution: ConstitutionOption = None,
    only: OnlyOption = None,
    pairs: PairsOption = 200,
    repeat: Annotated[
        int, typer.Option("--repeat", metavar="N", min=0, help="ask about N pairs twice: is the answer the same?")
    ] = 40,
    attack: Annotated[
        int, typer.Option("--attack", metavar="N", min=0, help="try each attack on N pairs: is the judge taken in?")
    ] = 24,
    examples: Annotated[
        int,
        typer.Option("--examples", metavar="N", min=0, help="show N pairs that the judge has wrong and is surest of"),
    ] = 5,
    html: HtmlOption = None,
    out: ObjectOption = None,
    force: ReplaceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Measure a judge on pairs whose better answer is known (gold), and write its card.

    The card says how often the judge is right, beside what length alone gets; how sure it is; whether the order of the
    answers or an attack moves it; what a verdict costs; and on which pairs it is surest and wrong. Templates are the
    shipped ones.
    """
    from rlaif.core.progress import choose
    from rlaif.core.shipped import cache_folder
    from rlaif.judge.card.answer import answer
    from rlaif.judge.card.card import CardOptions, judge_card
    from rlaif.judge.load import load_or_default
    from rlaif.view.deliver import deliver, refuse_places

    refuse_places(html, out, None, "card", inputs=(gold, config, constitution), replace=force)
    settings = load_or_default(config, overrides)
    asked = CardOptions(pairs, repeat, attack, tuple(only or ()), constitution, examples=examples)
    found = judge_card(settings, gold, asked, cache=cache_folder(), progress=choose(quiet=as_json))
    deliver(found.as_json(), answer(found), html=html, out=out, as_json=as_json)


def compare(
    gold: GoldOption,
    methods: Annotated[
        str | None, typer.Option("--methods", metavar="M,M,...", help="compare the config's judge by these methods")
    ] = None,
    variant: Annotated[
        list[str] | None,
        typer.Option(
            "--variant",
            metavar='"NAME: A.B=C ..."',
            help="one more judge: the config with these fields changed; templates=FOLDER; may be repeated",
        ),
    ] = None,
    config: JudgeConfigOption = None,
    overrides: SetOption = None,
    constitution: ConstitutionOption = None,
    only: OnlyOption = None,
    pairs: PairsOption = 200,
    choose: Annotated[
        float,
        typer.Option("--choose", metavar="SHARE", min=0.05, max=0.95, help="choose on this share of the prompts"),
    ] = 0.5,
    timed: Annotated[
        int, typer.Option("--timed", metavar="N", min=0, help="measure the cost by asking about N pairs again")
    ] = 8,
    html: HtmlOption = None,
    out: ObjectOption = None,
    force: ReplaceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Compare judges on pairs whose better answer is known.

    One judge is chosen on a part of the prompts and all are reported on the others, so that luck does not flatter the
    choice. Give --methods, --variant, or both.
    """
    from rlaif.core.progress import choose as choose_progress
    from rlaif.core.shipped import cache_folder
    from rlaif.judge.card.card import CardOptions
    from rlaif.judge.compare.answer import answer
    from rlaif.judge.compare.measure import compare as compared
    from rlaif.judge.compare.variants import read_variants
    from rlaif.judge.load import load_or_default
    from rlaif.view.deliver import deliver, refuse_places

    refuse_places(html, out, None, "compare", inputs=(gold, config, constitution), replace=force)
    variants = read_variants(methods, variant or (), lambda more: load_or_default(config, [*(overrides or ()), *more]))
    asked = CardOptions(pairs, 0, 0, tuple(only or ()), constitution)
    found = compared(
        variants, gold, asked, share=choose, timed=timed, cache=cache_folder(), progress=choose_progress(quiet=as_json)
    )
    deliver(found.as_json(), answer(found), html=html, out=out, as_json=as_json)


def export_batch(
    run: RunOption,
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE", help="where to write; large exports are split into several")
    ],
    overrides: SetOption = None,
    member: Annotated[
        str, typer.Option("--member", metavar="NAME", help="write the requests of this member of judge.panel")
    ] = "",
    limit: Annotated[
        int | None,
        typer.Option("--limit", min=1, metavar="N", help="take the first N prompts of each slice (set of prompts)"),
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="write also requests that were exported before and have no result yet")
    ] = False,
    accept: AcceptOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write the requests for a run's labels into files for a provider's batch interface. Asks nobody."""
    from rlaif.core.progress import choose
    from rlaif.run.judge_batch import export_requests

    words = accepting(overrides, accept)
    found = export_requests(
        run, out, member=member, overrides=words, limit=limit, again=again, progress=choose(quiet=as_json)
    )
    if as_json:
        say(json.dumps(found.as_json()))
        return
    for path in found.files:
        say(f"wrote {path}")
    say(f"{found.written:,} requests for {found.pairs:,} pairs; answers that are in the cache are not asked for again")
    if found.waiting:
        say(f"{found.waiting:,} were exported before and have no result yet; --again writes them once more")
    if found.written:
        say(f"next: have them answered, then rlaif judge import --run {run} RESULTS")
    elif not found.waiting:
        say(f"nothing is left to ask; next: rlaif label --run {run} --resume")


def import_batch(
    results: Annotated[list[Path], typer.Argument(metavar="RESULTS...", help="files that the provider gave back")],
    run: RunOption,
    as_json: JsonOption = False,
) -> None:
    """Read the results of a batch into a run's cache. `rlaif label` then asks only for what is missing."""
    from rlaif.run.judge_batch import import_results

    found = import_results(run, results)
    if as_json:
        say(json.dumps(found.as_json()))
        return
    say(f"{found.imported:,} answers imported, {found.known:,} were there already, {found.unknown:,} of unknown id")
    for kind, number in found.failed.most_common():
        say(f"{number:,} failed ({kind}): {found.reasons[kind]}")
    if found.waiting:
        say(f"{found.waiting:,} exported requests have no result yet: import the other files too")
    say(
        f"next: rlaif judge export --run {run} --out FILE, which writes the requests that failed and those that follow "
        f"(the letters of cot)\n  or: rlaif label --run {run} --resume, which asks the server for the rest"
    )


def serve(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="the run folder, after its reward stage")],
    source: Annotated[
        str, typer.Option("--source", metavar="model|judge", help="score by the run's reward model, or ask its judge")
    ] = "model",
    host: Annotated[
        str, typer.Option("--host", metavar="HOST", help="listen there; other than loopback with a token (RLAIF_TOKEN)")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", metavar="PORT", min=0, max=65535, help="0 takes a free one and says it")
    ] = 5000,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            "--tokenizer", metavar="MODEL", help="OpenRLHF: the model that it trains, where that is not the run's own"
        ),
    ] = None,
    overrides: SetOption = None,
    accept: AcceptOption = False,
    as_json: JsonOption = False,
) -> None:
    """Give the run's scores to other trainers over HTTP, until Ctrl-C.

    POST /score takes prompts and completions, POST /get_reward what OpenRLHF's --reward.remote_url sends, and GET
    /health says what scores. docs/other-trainers.md has a recipe for each trainer.
    """
    if source not in ("model", "judge"):
        what = f"no such source: {source!r}{near(source, ('model', 'judge'))}"
        raise ConfigError(what, where="--source", remedy="write model or judge")
    with waiting("loading"):
        from rlaif.core.shard import refuse_no_whole_run
        from rlaif.export.server import HEALTH, REWARD, SCORE, RewardServer
        from rlaif.run.open import chat_text, load_reward

    refuse_no_whole_run(run)
    words = accepting(overrides, accept)
    with RewardServer(host, port) as server:
        reward = load_reward(run, source, set=words)
        server.listen(reward, chat_text(run, tokenizer))
        if as_json:
            say(json.dumps({"url": server.url, **reward.about}))
        else:
            for path, about in ((SCORE, "plain JSON"), (REWARD, "OpenRLHF: --reward.remote_url"), (HEALTH, "GET")):
                say(f"{server.url}{path}  {about}")
        sys.stdout.flush()
        server.serve_forever()


VERBS: dict[str, Command] = {
    "card": card,
    "compare": compare,
    "export": export_batch,
    "import": import_batch,
    "serve": serve,
}
"""Verb -> the function that does it."""


def judge_app() -> typer.Typer:
    """The sub-app with every verb."""
    about = "Measure a judge before its labels are used, ask it through batch files, or serve its scores."
    return add_verbs(typer.Typer(help=about, no_args_is_help=True, cls=Verbs), VERBS)
