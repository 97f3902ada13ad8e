"""`rlaif judge VERB`: measure a judge before it is trusted, or ask it by files. Heavy imports stand in the verbs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from rlaif.cli.judge_batch import export_batch, import_batch

Command = Callable[..., None]

ConstitutionOption = Annotated[
    str | None, typer.Option("--constitution", metavar="NAME-or-FILE", help="instead of the config's")
]
OnlyOption = Annotated[
    list[str] | None, typer.Option("--only", metavar="ID-or-TAG", help="only the principles with this id or tag")
]
PairsOption = Annotated[int, typer.Option("--pairs", min=0, help="draw N pairs of gold; 0 = all")]
HtmlOption = Annotated[Path | None, typer.Option("--html", metavar="FILE", help="also write a page to read")]
OutOption = Annotated[Path | None, typer.Option("--out", metavar="FILE", help="also write the JSON object there")]
JsonOption = Annotated[bool, typer.Option("--json", help="print one JSON object on stdout and nothing else")]


def card(
    gold: Annotated[
        str,
        typer.Option(
            "--gold",
            metavar="GOLD",
            help="JSONL with prompt, chosen, rejected; pyrit; verifiable; or tests:CONSTITUTION",
        ),
    ],
    config: Annotated[
        Path | None,
        typer.Option("--config", help="run config with the judge (default: the defaults); templates are shipped ones"),
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="A.B=C", help="override a config field")
    ] = None,
    constitution: ConstitutionOption = None,
    only: OnlyOption = None,
    pairs: PairsOption = 200,
    repeat: Annotated[int, typer.Option("--repeat", min=0, help="ask N of them again, past the cache")] = 40,
    attack: Annotated[int, typer.Option("--attack", min=0, help="try each attack on N of them")] = 24,
    html: HtmlOption = None,
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure the judge of a config against gold: accuracy beside length alone, calibration, order, attacks, cost."""
    from rlaif.config import load_or_default
    from rlaif.core.progress import choose
    from rlaif.core.shipped import cache_folder
    from rlaif.judge.card.card import Asked, judge_card
    from rlaif.judge.card.page import page
    from rlaif.judge.card.terminal import rendered
    from rlaif.view.deliver import deliver, refuse_places

    refuse_places(html, out, None, "card", inputs=(gold, config, constitution))
    settings = load_or_default(config, overrides)
    asked = Asked(pairs, repeat, attack, tuple(only or ()), constitution)
    found = judge_card(settings, gold, asked, cache=cache_folder(), progress=choose(quiet=as_json))
    deliver(found.as_json(), rendered(found), lambda: page(found), html=html, out=out, as_json=as_json)


def compare(
    gold: Annotated[str, typer.Option("--gold", metavar="GOLD", help="as for `rlaif judge card`")],
    methods: Annotated[
        str | None, typer.Option("--methods", metavar="M,M,...", help="one judge per method, as the config has it else")
    ] = None,
    variant: Annotated[
        list[str] | None,
        typer.Option(
            "--variant",
            metavar='"NAME: A.B=C ..."',
            help="a judge: the config with these fields of judge or model, and templates=FOLDER; may be repeated",
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="run config that all judges share (default: the defaults)")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="A.B=C", help="override a config field for all of them")
    ] = None,
    constitution: ConstitutionOption = None,
    only: OnlyOption = None,
    pairs: PairsOption = 200,
    choose: Annotated[
        float, typer.Option("--choose", min=0.05, max=0.95, help="share of the prompts that the choice is made on")
    ] = 0.5,
    timed: Annotated[int, typer.Option("--timed", min=0, help="ask N pairs again, past the cache, for the cost")] = 8,
    html: HtmlOption = None,
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare judges on gold: choose one on a part of the prompts, report all on the others, and how far they agree."""
    from rlaif.config import load_or_default
    from rlaif.core.progress import choose as choose_progress
    from rlaif.core.shipped import cache_folder
    from rlaif.judge.card.card import Asked
    from rlaif.judge.compare.measure import compare as compared
    from rlaif.judge.compare.page import page
    from rlaif.judge.compare.terminal import rendered
    from rlaif.judge.compare.variants import read_variants
    from rlaif.view.deliver import deliver, refuse_places

    refuse_places(html, out, None, "compare", inputs=(gold, config, constitution))
    variants = read_variants(methods, variant or (), lambda more: load_or_default(config, [*(overrides or ()), *more]))
    asked = Asked(pairs, 0, 0, tuple(only or ()), constitution)
    found = compared(
        variants, gold, asked, share=choose, timed=timed, cache=cache_folder(), progress=choose_progress(quiet=as_json)
    )
    deliver(found.as_json(), rendered(found), lambda: page(found), html=html, out=out, as_json=as_json)


VERBS: dict[str, Command] = {"card": card, "compare": compare, "export": export_batch, "import": import_batch}
"""Verb -> the function that does it; its docstring is the help."""


def judge_app(friendly: Callable[[Command], Command]) -> typer.Typer:
    """The sub-app with every verb; `friendly` is what the command line wraps around a command to print its errors."""
    app = typer.Typer(
        help="Measure a judge before its labels are used, or have it answer through batch files.", no_args_is_help=True
    )
    for verb, command in VERBS.items():
        app.command(verb)(friendly(command))
    return app
