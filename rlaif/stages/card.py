"""`card`: the run's judge, measured on gold before its labels are used. Writes card/card.json and card/card.html."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from rlaif.config import AskingConfig, ModelConfig
from rlaif.core.files import write_atomic
from rlaif.judge.card.answer import answer
from rlaif.judge.card.card import CardOptions, judge_card
from rlaif.lm.protocol import LanguageModel
from rlaif.stages.context import StageContext
from rlaif.view.answer import page


def run(context: StageContext) -> dict[str, float]:
    """The figures that a record needs; the card itself is in the stage's folder."""
    table, cache = context.config.card, context.run.cache_path

    def open_one(asking: AskingConfig, _: ModelConfig, folder: Path) -> LanguageModel:
        return context.open_judge(asking, folder)

    asked = CardOptions(
        table.pairs,
        table.repeat,
        table.attack,
        constitution=context.constitution,
        templates=context.run.templates_path,
    )
    card = judge_card(context.config, table.gold, asked, cache=cache, progress=context.progress, open_judge=open_one)
    card = replace(card, calls=int(context.usage().get("judge_calls", card.calls)))  # of all sessions
    write_atomic(context.folder / "card.html", page(answer(card)))
    write_atomic(context.folder / "card.json", json.dumps(card.as_json(), ensure_ascii=False, indent=1) + "\n")
    for sentence in card.verdict:
        context.progress.say(f"  {sentence}")
    accuracies = {"accuracy": card.accuracy.judge, "length_matched": card.length_matched.judge}
    return {
        "pairs": card.failures.pairs,
        "labelled": card.failures.labelled,
        **{name: found.mean for name, found in accuracies.items() if found is not None},
    }
