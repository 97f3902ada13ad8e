"""Reward functions for tests of PPO, named in configs as "tests.training.toy_rewards:..."."""

from __future__ import annotations

import os
import signal
from pathlib import Path


def share_of_e(prompts: list[str], responses: list[str]) -> list[float]:
    """Ten times the share of the letter e, so that its spread is about 1."""
    return [10 * text.count("e") / max(1, len(text)) for text in responses]


def fails(prompts: list[str], responses: list[str]) -> list[float]:
    raise ValueError("the scorer is down")


def some_e(prompts: list[str], responses: list[str]) -> list[float]:
    """Best where about a fifth of the letters are e."""
    return [-abs(share - 2) for share in share_of_e(prompts, responses)]


def killed_at_the_fourth_call(prompts: list[str], responses: list[str]) -> list[float]:
    """`share_of_e`, but the fourth call in the life of the file $KILL_COUNTER ends the process at once."""
    counter = Path(os.environ["KILL_COUNTER"])
    counter.write_text(counter.read_text() + "x")
    if len(counter.read_text()) == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return share_of_e(prompts, responses)


def ends(completions: list[str], finish: list[str], **columns: list[object]) -> list[float | None]:
    """1 for a response that ended by itself, as a function written for TRL would say it; None for an empty one."""
    return [float(how == "stop") if text else None for text, how in zip(completions, finish, strict=True)]


def interrupted_at_the_third_call(prompts: list[str], responses: list[str]) -> list[float]:
    """`share_of_e`, but at the third call in the life of the file $KILL_COUNTER comes Ctrl-C."""
    counter = Path(os.environ["KILL_COUNTER"])
    counter.write_text(counter.read_text() + "x")
    if len(counter.read_text()) == 3:
        signal.raise_signal(signal.SIGINT)
    return share_of_e(prompts, responses)


def killed_at_a_call(prompts: list[str], responses: list[str]) -> list[float]:
    """`share_of_e`, but call number $KILL_AT in the life of the file $KILL_COUNTER ends the process at once."""
    counter = Path(os.environ["KILL_COUNTER"])
    counter.write_text(counter.read_text() + "x")
    if len(counter.read_text()) == int(os.environ["KILL_AT"]):
        os.kill(os.getpid(), signal.SIGKILL)
    return share_of_e(prompts, responses)
