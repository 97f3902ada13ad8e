"""`rlaif check CONFIG`: is everything there? `rlaif check ppo CONFIG`: does PPO compute what it says, on this model?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from rlaif.cli.options import JsonOption, SetOption
from rlaif.core.errors import ConfigError
from rlaif.core.terminal import say

WRONG_MODEL = 4  # the exit code of a ModelError: PPO and this model do not go together


def check(
    what: Annotated[
        list[str], typer.Argument(metavar="[ppo] CONFIG", help="the run config; ppo before it checks PPO itself")
    ],
    run: Annotated[
        Path | None,
        typer.Option(
            "--run", metavar="RUN", help="with `ppo`: take the SFT policy, reward model and answers of this run"
        ),
    ] = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check that all is there that a run needs, or that PPO is right on your model.

    `rlaif check CONFIG` asks a judge behind a server about one pair; nothing else costs anything.
    `rlaif check ppo CONFIG` checks that PPO computes what it says on your model, tokenizer, chat template and reward;
    that takes minutes.
    """
    *subject, config = what
    if subject not in ([], ["ppo"]):
        raise ConfigError(
            f"takes one config at a time, and {' '.join(subject)!r} stands before {config!r}",
            where="rlaif check",
            remedy="write rlaif check CONFIG, or rlaif check ppo CONFIG",
        )
    if subject:
        _check_ppo(Path(config), run, overrides or [], as_json)
    elif run is not None:
        raise ConfigError("--run goes with `rlaif check ppo`", remedy="leave it out: a config needs no run")
    else:
        _check_config(Path(config), overrides or [], as_json)


def _check_config(config: Path, overrides: list[str], as_json: bool) -> None:
    from rlaif.check.config import check_all

    findings = check_all(config, overrides)
    if as_json:
        say(json.dumps({"ok": all(f.ok for f in findings), "checks": [f.as_json() for f in findings]}))
    else:
        for finding in findings:
            say(str(finding))
    failed = [finding for finding in findings if not finding.ok]
    if failed:
        raise typer.Exit(failed[0].exit_code)


def _check_ppo(config: Path, run: Path | None, overrides: list[str], as_json: bool) -> None:
    from rlaif.core.files import RunFolder, refuse_no_run
    from rlaif.judge.load import load

    settings = load(config, overrides)
    if run is not None:
        refuse_no_run(run)
    from rlaif.check.ppo.of_config import opened
    from rlaif.check.ppo.suite import run as checks

    with opened(settings, None if run is None else RunFolder(run)) as (subject, about):
        outcomes = []
        if not as_json:
            say(about)
        for outcome in checks(subject):
            outcomes.append(outcome)
            if not as_json:
                say(str(outcome))
    failed = [outcome for outcome in outcomes if not outcome.ok]
    if as_json:
        say(json.dumps({"ok": not failed, "about": about, "checks": [outcome.as_json() for outcome in outcomes]}))
    else:
        done = sum(outcome.applies for outcome in outcomes)
        say(f"{done - len(failed)} of {done} checks passed" + (f", {len(failed)} failed" if failed else ""))
    if failed:
        raise typer.Exit(WRONG_MODEL)
