"""A tiny random model with its tokenizer, built in memory: the tests run the real libraries without a download.
No library is imported before it is used: conftest.py sets first how many threads they take.

The tokenizer is shaped as SmolLM2's: byte-level BPE, ChatML, and `<|im_end|>` as both end and pad token - the setting
in which a mask made from `ids != pad` would be wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rlaif.config import ModelConfig

if TYPE_CHECKING:
    import torch

Arch = Literal["llama", "qwen2", "qwen3", "gpt2", "gpt_neox", "gemma"]

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
VOCABULARY = 400
CONTEXT = 512
SPREAD = 0.3
"""Standard deviation of the weights. With the usual 0.02 the frozen output layer could not tell two tokens apart."""

TEXT = """How do I bake bread at home? Mix flour, water, salt and yeast, let the dough rest, then bake it until brown.
What should I do when a friend is sad? Listen, be kind, and ask what would help. You do not need to have an answer.
Please write a short note to my neighbour about the noise. Dear neighbour, could we talk about the music at night?
I cannot help with that, because it could hurt somebody. Here is what I can do instead: tell you where to get help.
user assistant system The quick brown fox jumps over the lazy dog. Is this answer better than that one? (A) or (B)?
Yes, thank you. No, sorry. One, two, three, four, five, six, seven, eight, nine, ten.
"""

_SIZES: dict[str, dict[str, Any]] = {
    "llama": {"num_key_value_heads": 2, "intermediate_size": 96, "tie_word_embeddings": True},
    "qwen2": {"num_key_value_heads": 2, "intermediate_size": 96, "tie_word_embeddings": True},
    "qwen3": {"num_key_value_heads": 2, "intermediate_size": 96, "head_dim": 12, "tie_word_embeddings": False},
    "gemma": {"num_key_value_heads": 1, "intermediate_size": 96, "head_dim": 12, "tie_word_embeddings": True},
    "gpt2": {"resid_pdrop": 0.1, "embd_pdrop": 0.1, "attn_pdrop": 0.1},
    "gpt_neox": {"intermediate_size": 96},
}


@lru_cache(maxsize=1)
def tiny_tokenizer() -> Any:
    """A `PreTrainedTokenizerFast` of `VOCABULARY` tokens, trained on `TEXT`; every byte has a token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT.splitlines(), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<|endoftext|>",
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        model_max_length=CONTEXT,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def make_tiny_model(folder: Path, arch: Arch = "llama", *, seed: int = 0, hidden: int = 48, layers: int = 2) -> Path:
    """The folder, now holding a random float32 causal LM of the architecture and its tokenizer.

    The same arguments give the same weights. `hidden` is a multiple of 4 (the number of attention heads) times 2.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    tokenizer = tiny_tokenizer()
    config = AutoConfig.for_model(
        arch,
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=CONTEXT,
        initializer_range=SPREAD,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **_SIZES[arch],
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        # the pad token's row starts at zero; here it is the end token too, and a model must be able to say it
        model.get_input_embeddings().weight.data[tokenizer.pad_token_id].normal_(std=SPREAD)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def random_model(kind: str, **fields: Any) -> Any:
    """A random float32 model of transformers' `kind` with two layers, frozen, without a tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    more = {"num_key_value_heads": 2, "max_position_embeddings": 160, "pad_token_id": 0, "initializer_range": SPREAD}
    config = AutoConfig.for_model(kind, **{"vocab_size": VOCABULARY, **sizes, **more, **fields})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval().requires_grad_(False)


def other_model(folder: Path, kind: str, **fields: Any) -> Path:
    """The folder, now holding a `random_model` of the kind and the tiny tokenizer."""
    random_model(kind, **fields).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


# --- what a model says, by transformers alone -------------------------------------------------------------------------

NEVER = 10_000
"""An id that no tiny model can say."""
SHARED = [7 * n % 390 + 3 for n in range(20)]


def random_ids(lengths: list[int], seed: int = 0) -> list[list[int]]:
    import numpy as np

    draw = np.random.default_rng(seed)
    return [draw.integers(3, 390, size=n).tolist() for n in lengths]


def load(folder: Path, dtype: str = "float32") -> Any:
    """The model in the folder, on the CPU."""
    from rlaif.lm.local.load import load_model

    return load_model(ModelConfig.model_validate({"source": str(folder), "dtype": dtype, "device": "cpu"})).model


def by_transformers(model: Any, prompt: list[int], count: int, ends: list[int]) -> list[int]:
    """Greedy tokens of one prompt alone, without padding."""
    import torch

    ids = torch.tensor([prompt])
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=count,
        do_sample=False,
        eos_token_id=ends,
        pad_token_id=0,
    )
    return list(out[0, len(prompt) :].tolist())


def by_forward(model: Any, context: Sequence[int], target: Sequence[int]) -> torch.Tensor:
    """Log-probabilities from one plain forward pass over the whole sequence."""
    import torch

    logits = model(input_ids=torch.tensor([[*context, *target]]), use_cache=False).logits[0].float()
    rows = logits[len(context) - 1 : -1].log_softmax(-1)
    return rows.gather(1, torch.tensor(target, dtype=torch.long)[:, None]).squeeze(1)
