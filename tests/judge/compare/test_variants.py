"""What makes a judge of a comparison, and what is said of one that makes none."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from rlaif.config import RunConfig
from rlaif.core.errors import ConfigError, RlaifError, TemplateError
from rlaif.inputs.templates import Template
from rlaif.judge.compare.variants import Variant, read_variants
from rlaif.judge.load import default_config
from rlaif.judge.methods import rating


def config_of(more: Sequence[str]) -> RunConfig:
    return default_config(["judge.scale=0.3", *more])


def read(*variants: str, methods: str | None = None) -> list[Variant]:
    return read_variants(methods, variants, config_of)


def test_methods_and_variants_stand_in_order() -> None:
    found = read("as it is:", "wide : judge.scale=2 model.dtype=float32", methods="pairwise, cot")
    assert [v.name for v in found] == ["pairwise", "cot", "as it is", "wide"]
    assert [v.config.judge.method for v in found] == ["pairwise", "cot", "contrast", "contrast"]
    assert [v.config.judge.scale for v in found] == [0.3, 0.3, 0.3, 2.0]
    assert [v.config.model.dtype for v in found][2:] == ["auto", "float32"]


def test_words_are_quoted_as_in_a_shell() -> None:
    found = read("a: judge.source='a b'", 'b: judge.clamp="[0.3, 0.7]" judge.method=cot')
    assert found[0].config.judge.source == "a b"
    assert found[1].config.judge.clamp == (0.3, 0.7)


def test_a_panel_is_a_judge_too() -> None:
    alone, panel = read("panel: judge.panel='[{name: outright, method: pairwise}]'", methods="contrast")
    assert panel.config.judge.methods == ("contrast", "pairwise")
    assert panel.template_hashes[0] == alone.template_hashes[0]
    assert len(panel.template_hashes) == 2


def test_a_folder_of_templates(tmp_path: Path) -> None:
    text = '{% message "user" %}{{ response | quote }} (1)?{% endmessage %}'
    (tmp_path / "rating.jinja").write_text(text, encoding="utf-8")
    shipped, own = read(f"own: judge.method=rating templates={tmp_path}", methods="rating")
    assert own.template_hashes == (Template(rating.TEMPLATE, text).hash,) != shipped.template_hashes
    assert own.identity != shipped.identity
    with pytest.raises(ConfigError, match=r"has no cot\.jinja"):
        read(f"own: judge.method=cot templates={tmp_path}", methods="rating")
    (tmp_path / "rating.jinja").write_text("text outside", encoding="utf-8")
    with pytest.raises(TemplateError, match="outside of any message"):
        read(f"own: judge.method=rating templates={tmp_path}", methods="pairwise")


@pytest.mark.parametrize(
    ("variants", "methods", "words"),
    [
        ((), None, "is no judge"),
        ((), "cot", "there is one judge"),
        (("judge.scale=1",), "cot", "does not begin with a name and a colon"),
        ((": judge.scale=1",), "cot", "does not begin with a name and a colon"),
        (("a: judge.scale='1",), "cot", "cannot be read"),
        (("a: judge.scael=1",), "cot", "did you mean 'scale'"),
        (("a: ppo.steps=1",), "cot", "a variant cannot change 'ppo.steps=1'"),
        (("a: fast",), "cot", "a variant cannot change 'fast'"),
        (("a: templates=nowhere",), "cot", "there is no folder nowhere"),
        (("a:", "a: judge.scale=1"), None, "there already is a judge called a"),
        (("a:", "b: judge.scale=0.3"), None, "is the same judge as a"),
        (("a:", "b: judge.concurrency=2"), None, "is the same judge as a"),
        (
            ("a: judge.principles=one", "b: judge.principles=one judge.calibration=temperature"),
            None,
            "is the same judge as a",
        ),
        (("mean of all:",), "cot", "mean of all is what the mean"),
        ((), "cot,pairwize", "--methods pairwize: judge.method"),
    ],
)
def test_mistakes_are_told(variants: tuple[str, ...], methods: str | None, words: str) -> None:
    with pytest.raises(RlaifError) as error:
        read(*variants, methods=methods)
    assert words in str(error.value)
    assert "->" in str(error.value)


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        read("a: judge.scale=-1", "b", "c: model.dtype=int8")
    for words in ("--variant 'a: judge.scale=-1'", "judge.scale", "--variant 'b'", "model.dtype"):
        assert words in str(error.value)
