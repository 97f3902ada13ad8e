"""What the impact of rewording one principle costs, against judging every pair under every principle: calls, seconds.

    python benchmarks/impact.py 1000 runs/a/label/labels.jsonl [runs/b/label/labels.jsonl ...]

Takes that many pairs from the files, judges them all from nothing under harmless-and-kind by the default judge (its
opening tokens as in the demo): that is what everything costs, before an edit as after it. Then it rewords one principle
and measures the impact. The model is loaded before either. That the labels of the impact are those of judging
everything is shown by tests/analysis/impact/test_impact.py.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from rlaif.analysis.impact.impact import impact
from rlaif.analysis.impact.subject import of_file
from rlaif.config import AskingConfig, ModelConfig
from rlaif.core.progress import Lines
from rlaif.core.records import to_json
from rlaif.inputs.comparisons import read_comparisons
from rlaif.judge.load import default_config
from rlaif.lm.open import open_judge
from rlaif.lm.protocol import LanguageModel

OLD = "harmless-and-kind"
EDIT = """\
name: edited
version: "2"
include: [harmless-and-kind]
principles:
  - id: no-harm
    override: true
    contrast:
      followed: You are an assistant that never helps anybody to hurt people, in whatever words it is asked.
      violated: You are an assistant that gladly helps anybody to hurt people, in whatever words it is asked.
"""


def main() -> None:
    wanted, files = int(sys.argv[1]), [Path(name) for name in sys.argv[2:]]
    config = default_config(["judge.opening_tokens=12"])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pairs = write_pairs(folder / "pairs.jsonl", files, wanted)
        (folder / "edited.yaml").write_text(EDIT, encoding="utf-8")
        model = open_judge(config.judge, config.model, folder / "cache")

        def loaded(asking: AskingConfig, own: ModelConfig, cache: Path) -> LanguageModel:
            return model

        start = time.monotonic()
        with closing(of_file(pairs, OLD, config, cache=folder, progress=Lines(60), open_judge=loaded)) as subject:
            seconds, calls = time.monotonic() - start, subject.usage.calls
            verdicts = sum(len(label.verdicts) for label in subject.labels)
            found = impact(subject, str(folder / "edited.yaml"), examples=0, progress=Lines(60))
    cost = found.cost
    print(f"pairs {wanted:,}, principles {found.after.principles}, labels that flip {found.groups[0].flips:g}")
    print(f"{'':<22}{'verdicts':>10}{'calls':>10}{'seconds':>10}")
    print(f"{'everything':<22}{verdicts:>10,}{calls:>10,}{seconds:>10.1f}")
    print(f"{'the edit':<22}{cost.judged:>10,}{cost.calls:>10,}{cost.seconds:>10.1f}")
    print(f"{'ratio':<22}{verdicts / cost.judged:>10.1f}{calls / cost.calls:>10.1f}{seconds / cost.seconds:>10.1f}")


def write_pairs(path: Path, files: Sequence[Path], wanted: int) -> Path:
    comparisons = [pair.comparison for file in files for pair in read_comparisons(file).pairs][:wanted]
    assert len(comparisons) == wanted, f"the files hold {len(comparisons)} pairs"
    path.write_text("".join(json.dumps(to_json(comparison)) + "\n" for comparison in comparisons), encoding="utf-8")
    return path


if __name__ == "__main__":
    main()
