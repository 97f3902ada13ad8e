"""The tuned policy, or the one after SFT, as a folder that loads elsewhere: one adapter, or a whole model.

What is written answers as the run's own loading does (`rlaif.lm.local.load`): merged weights are those very weights,
and an adapter gives the same logits up to the rounding of sums.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rlaif.config import ModelConfig, RunConfig
from rlaif.config.load import load as read_config
from rlaif.core.errors import ModelError
from rlaif.core.evaluation import Summary
from rlaif.core.files import RunFolder
from rlaif.export import card as cards
from rlaif.export import place
from rlaif.export.adapter import write_composed
from rlaif.export.source import EVALUATED, Policy, adapters_of, base_of, source_of
from rlaif.lm.local import hub
from rlaif.lm.local.load import LoadedModel, end_ids, load_model, load_tokenizer, resolve

Form = Literal["adapter", "merged"]


@dataclass(frozen=True, slots=True)
class PolicyExport:
    """What was written, and Python that loads it."""

    out: Path
    which: Policy
    form: Form
    base: str
    example: str

    def as_json(self) -> dict[str, str]:
        return {"wrote": str(self.out), "export": self.which, "form": self.form, "base": self.base}


def export_policy(
    run: RunFolder, which: Policy, out: Path, *, form: Form = "merged", force: bool = False
) -> PolicyExport:
    """What was written to `out`. Raises, before anything is: RunFolderError for a place that is taken, StageError for a
    stage that is missing, ModelError for a base that is not what it was, or that an adapter cannot name."""
    place.refuse_place(out, run, force=force)
    config = read_config(run.config_path)
    adapters, record = adapters_of(run, config, which)
    base = base_of(config, record)
    constitution = cards.constitution_of(run)
    folder, name = resolve(base.source)
    named = _base_to_name(base) if form == "adapter" else name
    example = _example(form, out.name)
    command = place.command(which, run, out, ["--form", form])
    summary = cards.evaluation_of(run, EVALUATED[which])
    parts = [
        f"# {cards.plain(out.name)}",
        f"{cards.model_name(base.source)}, {_about(which, config)}, with rlaif.",
        f"- {_stands_on(form, named, base)}\n{cards.origin(run, config, constitution)}\n- Made with `{command}`",
        cards.fenced(example, "python"),
        "## Evaluation",
        _evaluation(summary, EVALUATED[which]),
        "The licence of the base model is that of these weights too, unless it says otherwise.",
    ]
    readme = cards.page(_metadata(base, form, out.name, summary, EVALUATED[which]), parts)

    def write(into: Path) -> None:
        if form == "adapter":
            write_composed(adapters, into, base=named, revision=_revision(base))
            load_tokenizer(folder).save_pretrained(into)
        else:
            _save(load_model(base, adapters), into)
        (into / "README.md").write_text(readme, encoding="utf-8")  # over that of a library, if one was written

    about = {"export": which, "form": form, "base": named, "constitution": constitution.hash, "command": command}
    place.write_export(out, write, about)
    return PolicyExport(out, which, form, named, example)


def _about(which: Policy, config: RunConfig) -> str:
    """What was done to the base."""
    sft = "fine-tuned on answers that it rewrote itself under a constitution (SFT)" if config.start else ""
    known = {"model": "a reward model", "judge": "the judge itself", "on_topic": "how far an answer is on topic"}
    rewards = [part.source for part in config.ppo.reward if part.weight]  # one without a weight is only watched
    names = " and ".join(known.get(name) or f"the function {cards.plain(name)}" for name in rewards)
    ppo = f"trained by PPO against the reward of {names}" if which == "policy" else ""
    dpo = "trained by DPO on the run's labels" if which == "dpo" else ""
    return ", then ".join(filter(None, (sft, ppo, dpo)))


def _save(loaded: LoadedModel, folder: Path) -> None:
    """Writes the weights, with a generation config by which a turn ends where the run ended it, and the tokenizer."""
    settings, tokenizer = loaded.model.generation_config, loaded.tokenizer
    ends = end_ids(tokenizer, loaded.model)
    settings.eos_token_id = ends[0] if len(ends) == 1 else ends
    if settings.pad_token_id is None:
        settings.pad_token_id = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    if settings.temperature is not None or settings.top_p is not None or settings.top_k is not None:
        settings.do_sample = True  # transformers refuses to save what would be sampled with, but for this
    settings._from_model_config = False  # true: what stands here counts for nothing where the model's config differs
    loaded.model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _base_to_name(base: ModelConfig) -> str:
    """What the adapter's config names as its base: a hub id or a folder. ModelError for a GGUF file: the weights that
    it was trained on are de-quantised ones, which go by no name elsewhere."""
    kind = source_of(base)
    if kind == "gguf":
        raise ModelError(
            "the adapters stand on the de-quantised weights of a GGUF file, which no hub has; on the model that was "
            "quantised they would answer differently",
            where=f"--form adapter, model.source: {base.source}",
            remedy="--form merged writes base and adapters as one model",
        )
    return str(Path(base.source).expanduser().resolve()) if kind == "folder" else base.source


def _revision(base: ModelConfig) -> str | None:
    """The commit of a hub model that lies in this machine's cache; None for a folder, or where it is not known."""
    found = hub.cached(base.source) if source_of(base) == "hub" else None
    return None if found is None else found.name


def _stands_on(form: Form, named: str, base: ModelConfig) -> str:
    kind = source_of(base)
    if form == "merged":
        whence = ", de-quantised from a GGUF file" if kind == "gguf" else ""
        return f"Base: {cards.model_name(base.source)}{whence}, with its adapters merged in; weights in {base.dtype}"
    here = "; a folder on the machine that wrote this: name yours in `adapter_config.json`" if kind == "folder" else ""
    return f"Base: `{named}`{here}. This is one LoRA adapter on it; it holds all that the run trained, in {base.dtype}"


def _example(form: Form, name: str) -> str:
    """Python that loads the folder from beside it."""
    library, model = "transformers", "AutoModelForCausalLM"
    if form == "adapter":
        library, model = "peft", "AutoPeftModelForCausalLM"
    return "\n".join(
        [
            f"from {library} import {model}",
            "from transformers import AutoTokenizer",
            "",
            f'model = {model}.from_pretrained("{name}", dtype="auto")',
            f'tokenizer = AutoTokenizer.from_pretrained("{name}")',
        ]
    )


def _metadata(base: ModelConfig, form: Form, name: str, summary: Summary | None, model: str) -> Any:
    from huggingface_hub import ModelCardData

    return ModelCardData(
        model_name=name,
        base_model=base.source if source_of(base) == "hub" else None,
        library_name="peft" if form == "adapter" else "transformers",
        pipeline_tag="text-generation",
        tags=cards.TAGS,
        eval_results=None if summary is None else cards.eval_results(summary, model) or None,
    )


def _evaluation(summary: Summary | None, model: str) -> str:
    if summary is None:
        return "The run has no evaluation of these weights."
    notes = "".join(f"\n- {cards.plain(note)}" for note in summary.notes)
    about = "On prompts that nothing was trained on. *Gold* measures never saw a label of the judge."
    return f"{about}\n\n{cards.evaluation_table(summary, model)}\n{notes}".rstrip()
