"""The reward model as a classifier of plain transformers, base and SFT merged in, with the run's own scores.

1. Where the run reads the last token (`reward.pooling: last`, `end`), so does `...ForSequenceClassification`, provided
   that the last token is not taken for padding: the export has a padding token that is not the end-of-turn token, and a
   chat template that ends with that. Its head has no bias, so its logits are the scores less a constant, the offset.
2. Where the run reads the mean over an answer's tokens (`mean`), its linear head on the mean is the mean of that head
   on each token. `...ForTokenClassification` gives these, with the bias: their mean is the score.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification

from rlaif.config import RunConfig
from rlaif.config.load import load as read_config
from rlaif.core.errors import ConfigError, ModelError
from rlaif.core.evaluation import HeldOut, read_held_out
from rlaif.core.files import RunFolder
from rlaif.core.records import Prompt
from rlaif.export import card as cards
from rlaif.export import place
from rlaif.export.source import base_of, finished, refuse_other_sft, source_of
from rlaif.lm.local.load import load_model
from rlaif.lm.local.packing import Row
from rlaif.training.rewards.model import RewardHead, RewardModel, load_head, read_rows

TRIED = (("How are you?", "Well, thank you.", True), ("Bake bread.", "Mix flour and", False), ("Hi", "No.", True))
"""Prompt, answer, whether it ended: what the export is tried on before it gets its name."""
CLOSE, CLOSE_IN_BFLOAT16 = 1e-3, 0.3
"""Standard deviations by which a score may differ there; bfloat16 rounds the run's own scores."""


@dataclass(frozen=True, slots=True)
class RewardExport:
    """What was written: the class that loads it, and what is to be added to its logits to have the run's scores."""

    out: Path
    loads_with: str
    pooling: str
    offset: float

    def as_json(self) -> dict[str, str | float]:
        found: dict[str, str | float] = {"wrote": str(self.out), "export": "reward", "loads_with": self.loads_with}
        return {**found, "pooling": self.pooling, "offset": self.offset}


def export_reward(run: RunFolder, out: Path, *, member: int | None = None, force: bool = False) -> RewardExport:
    """What was written to `out`. Raises as `export_policy` does, and ModelError for an architecture whose classifiers
    in transformers do not score as the run does. `member`: which of an ensemble, from 1."""
    place.refuse_place(out, run, force=force)
    config, record = read_config(run.config_path), finished(run, "reward")
    refuse_other_sft(run, "reward", record)
    folder = run.file("reward", _member(config.reward.adapters, member))
    base, head, constitution = base_of(config, record), load_head(folder), cards.constitution_of(run)
    single = head.pooling != "mean"
    kind = AutoModelForSequenceClassification if single else AutoModelForTokenClassification
    found = RewardExport(out, kind.__name__, head.pooling, -head.mean / head.std if single else 0.0)
    options = [] if member is None else ["--member", str(member)]
    command = place.command("reward", run, out, options)
    model, sft = cards.model_name(base.source), " with SFT merged in" if config.start else ""
    parts = [
        f"# {cards.plain(out.name)}",
        f"A reward model that was trained on preferences between two answers ({_labels(config)}), made with rlaif. A "
        "higher score means that this answer would rather be preferred.",
        f"- Base: {model}{sft}; weights in float32, trained in {base.dtype}\n"
        f"{cards.origin(run, config, constitution)}\n- Made with `{command}`",
        "## Scores",
        _about(found),
        cards.fenced(_example(found), "python"),
        "## On held-out labels",
        _held_out(read_held_out(run)),
        "The licence of the base model is that of these weights too, unless it says otherwise.",
    ]
    readme = cards.page(_metadata(base.source if source_of(base) == "hub" else None, single, out.name), parts)

    def write(into: Path) -> None:
        reward = RewardModel.load(folder, load_model(base, tuple(run.file(stage, "adapter") for stage in config.start)))
        rows = [reward.encode(Prompt.of_text(asked), said, finished=ended) for asked, said, ended in TRIED]
        wanted = [(raw - reward.mean) / reward.std for raw in reward.raw_of(rows)]
        rows = list(read_rows(rows, reward.pooling, reward.loaded.tokenizer.eos_token_id))
        tokenizer = copy.deepcopy(reward.loaded.tokenizer)
        if single:
            _pads_otherwise(tokenizer)
            _ends_with_the_turn(tokenizer)
        merged = reward.peft_model.to(torch.float32).merge_and_unload()
        _classifier(kind, merged, head, tokenizer.pad_token_id).save_pretrained(into)
        tokenizer.save_pretrained(into)
        close = CLOSE if base.dtype == "float32" else CLOSE_IN_BFLOAT16
        _refuse_other_scores(kind, into, rows, wanted, found, close)
        (into / "README.md").write_text(readme, encoding="utf-8")

    about = {**found.as_json(), "wrote": out.name, "constitution": constitution.hash, "command": command}
    place.write_export(out, write, about)
    return found


def _labels(config: RunConfig) -> str:
    return "labels that were given to the run" if config.given_labels else "labels of an AI judge under a constitution"


def _member(names: Sequence[str], member: int | None) -> str:
    """The folder of the reward model that is asked for."""
    if member is None and len(names) > 1:
        raise ConfigError(
            f"the run has {len(names)} reward models, and an ensemble is no single one",
            where="reward.members",
            remedy=f"choose one: --member 1 to {len(names)}",
        )
    if not 1 <= (member or 1) <= len(names):
        raise ConfigError(f"there is no member {member}", where="--member", remedy=f"write 1 to {len(names)}")
    return names[(member or 1) - 1]


def _classifier(kind: Any, merged: Any, head: RewardHead, pad: int | None) -> Any:
    """A classifier of transformers with the states of `merged` and the head, scaled to give normalised scores."""
    config = copy.deepcopy(merged.config)
    config.num_labels, config.pad_token_id, config.classifier_dropout = 1, pad, 0.0
    config.id2label, config.label2id, config.problem_type = {0: "score"}, {"score": 0}, "regression"
    try:
        with torch.device("meta"):  # the weights come from `merged`
            model = kind.from_config(config)
    except ValueError:
        raise _unlike(kind, f"transformers has none for {type(merged).__name__}") from None
    setattr(model, model.base_model_prefix, merged.base_model)
    name = "score" if hasattr(model, "score") else "classifier"
    linear = getattr(model, name, None)
    if not isinstance(linear, nn.Linear):
        raise _unlike(kind, f"the head of {type(model).__name__} is no linear map")
    bias = linear.bias is not None
    fitted = nn.Linear(head.head.in_features, 1, bias=bias)
    fitted.weight.data.copy_(head.head.weight.detach() / head.std)
    if bias:
        fitted.bias.data.fill_(-head.mean / head.std)
    setattr(model, name, fitted)
    left = [key for key, weight in model.named_parameters() if weight.is_meta]
    if left:
        raise _unlike(kind, f"{type(model).__name__} has weights that the run has not ({left[0]})")
    return model.eval()


def _pads_otherwise(tokenizer: Any) -> None:
    """Has the tokenizer pad with another token than the one that ends a turn, which would be passed over as padding."""
    if tokenizer.pad_token_id not in (None, tokenizer.eos_token_id):
        return
    special = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
    others = [token for token in special if token not in (tokenizer.eos_token, tokenizer.bos_token)]
    if not others:
        raise ModelError(
            "the tokenizer has no special token to pad with but the one that ends a turn, whose score is read",
            where="reward.pooling",
            remedy="use the reward by rlaif.load_reward, or train it with reward.pooling: mean",
        )
    tokenizer.pad_token = next((token for token in others if "pad" in token.lower()), others[0])


def _ends_with_the_turn(tokenizer: Any) -> None:
    """Has the chat template write nothing behind the token that ends the last turn, for there the score is read."""
    whole = f"{{% set whole %}}{tokenizer.chat_template}{{% endset %}}"
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    ended = str(tokenizer.apply_chat_template(chat, tokenize=False)).rstrip().endswith(tokenizer.eos_token)
    end = "" if ended else "{{ eos_token }}"
    tokenizer.chat_template = (
        f"{whole}{{% if add_generation_prompt %}}{{{{ whole }}}}{{% else %}}{{{{ whole.rstrip() }}}}{end}{{% endif %}}"
    )


@torch.no_grad()
def _refuse_other_scores(
    kind: Any, folder: Path, rows: Sequence[Row], wanted: Sequence[float], found: RewardExport, close: float
) -> None:
    """Raises ModelError where what was written does not give the rows the scores that the run gives them."""
    model = kind.from_pretrained(folder, dtype=torch.float32, trust_remote_code=False).eval()
    for (prompt, response), score in zip(rows, wanted, strict=True):
        logits = model(input_ids=torch.tensor([[*prompt, *response]])).logits[0]
        got = logits[0] if found.pooling != "mean" else logits[len(prompt) :, 0].mean()
        if not abs(float(got) + found.offset - score) <= close * max(1.0, abs(score)):
            raise _unlike(kind, f"it gives {float(got) + found.offset:.4f} in place of {score:.4f}")


def _unlike(kind: Any, why: str) -> ModelError:
    return ModelError(
        f"{kind.__name__} cannot score as this reward model does: {why}",
        where="rlaif export reward",
        remedy="use it by rlaif.load_reward(run)",
    )


# --- the card ---------------------------------------------------------------------------------------------------------


def _about(found: RewardExport) -> str:
    normal = "Scores are normalised to mean 0 and standard deviation 1 on answers that the run compared."
    if found.pooling == "mean":
        return (
            f"{normal} The score is the mean over the answer's tokens, its end-of-turn token among them: "
            "`AutoModelForTokenClassification` gives a logit for each token, and their mean is the score. "
            "Do not load it as `AutoModelForSequenceClassification`: that reads the last token alone, and is another "
            "score."
        )
    read = (
        "an end-of-turn token, which stands behind answers that were cut off too"
        if found.pooling == "end"
        else ("the answer's last token: the end-of-turn token of one that ended")
    )
    return (
        f"{normal} The score is read at {read}. `AutoModelForSequenceClassification` reads there, as the chat template "
        "of this folder ends with that token, and its padding token is another one. Its head has no bias: add "
        f"{found.offset:.6f} to a logit to have the run's score. No comparison of two answers depends on it."
    )


def _example(found: RewardExport) -> str:
    lines = [
        "import torch",
        f"from transformers import {found.loads_with}, AutoTokenizer",
        "",
        f'tokenizer = AutoTokenizer.from_pretrained("{found.out.name}")',
        f'model = {found.loads_with}.from_pretrained("{found.out.name}", dtype=torch.float32).eval()',
        'asked = [{"role": "user", "content": "How are you?"}]',
        'said = "Well, thank you."',
        "",
    ]
    if found.pooling == "mean":
        lines += [
            "prompt = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_dict=False)",
            "answer = tokenizer.encode(said, add_special_tokens=False) + [tokenizer.eos_token_id]",
            "with torch.no_grad():",
            "    logits = model(input_ids=torch.tensor([prompt + answer])).logits[0, len(prompt) :, 0]",
            "score = logits.mean().item()",
        ]
    else:
        lines += [
            'chat = [*asked, {"role": "assistant", "content": said}]',
            'ids = tokenizer.apply_chat_template(chat, return_tensors="pt", return_dict=False)',
            "with torch.no_grad():",
            f"    score = model(input_ids=ids).logits[0, 0].item() + {found.offset!r}",
        ]
    return "\n".join(lines)


def _held_out(found: HeldOut | None) -> str:
    """How far it agrees with labels that it did not see."""
    if found is None or found.accuracy is None:
        return "The run has not measured it on labels that it was not trained on."
    return cards.plain(found.verdict or f"Right on {found.accuracy:.1%} of {found.pairs} held-out labels.")


def _metadata(base: str | None, single: bool, name: str) -> Any:
    from huggingface_hub import ModelCardData

    task = "text-classification" if single else "token-classification"
    tags = [*cards.TAGS, "reward-model"]
    return ModelCardData(model_name=name, base_model=base, library_name="transformers", pipeline_tag=task, tags=tags)
