"""A tiny random model with its tokenizer, built in memory: the tests run the real libraries without a download.

The tokenizer is shaped as SmolLM2's: byte-level BPE, ChatML, and `<|im_end|>` as both end and pad token - the setting
in which a mask made from `ids != pad` would be wrong.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

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
