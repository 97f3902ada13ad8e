"""Which curves of PPO are drawn."""

from __future__ import annotations

from pathlib import Path

from rlaif.core.files import MetricsLog, RunFolder
from rlaif.report.curves import ppo_curves


def test_sources_of_the_score_and_disagreement_have_curves_where_there_are_several(tmp_path: Path) -> None:
    def titles(name: str, **parts: float) -> str:
        run = RunFolder(tmp_path / name)
        for step in range(2):
            MetricsLog(run.stage("ppo") / "metrics.jsonl").append(step=step, score=1.0, score_std=1.0, **parts)
        return "".join(map(str, ppo_curves(run, None).plots))

    alone = titles("one", score_model=1.0, score_model_std=1.0)
    assert "Score by source" not in alone
    assert "Disagreement" not in alone
    both = titles("two", score_model=1.0, score_model_std=1.0, score_e=2.0, score_e_std=0.5, disagreement=0.1)
    assert "Score by source" in both
    assert "score_e" in both
    assert "Disagreement" in both
