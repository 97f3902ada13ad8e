"""Sentence embeddings, which the scorers `harm` and `relevance` compare."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rlaif.gold.packages import MINILM, GoldMissing, package_folder

Vectors = np.ndarray
OnTexts = Callable[[int], None]
Embed = Callable[[Sequence[str]], Vectors]
KEPT = 50_000
"""Texts whose embeddings are kept (75 MB)."""


class Embeddings:
    """MiniLM's embedding of every text, made once: scorers ask about the same answers, and answers share questions.

    MiniLM is loaded with the first text; raises GoldMissing then, where it is not installed. `on_texts` is told of all
    texts that were asked for.
    """

    def __init__(self, on_texts: OnTexts = lambda n: None) -> None:
        self._on_texts = on_texts
        self._model: MiniLm | None = None
        self._known: dict[str, Vectors] = {}

    def __call__(self, texts: Sequence[str]) -> Vectors:
        """Embeddings (texts, 384), float32, each of length 1."""
        self._model = self._model or MiniLm(self._on_texts)
        if len(self._known) > KEPT:
            self._known = {}
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        self._on_texts(len(texts) - len(new))
        self._known |= zip(new, self._model(new), strict=True)
        return np.stack([self._known[text] for text in texts]) if texts else self._model([])


class MiniLm:
    """Sentence embeddings of the installed all-MiniLM-L6-v2: mean over tokens, unit length, 256 tokens at most."""

    max_tokens = 256
    batch_size = 64

    def __init__(self, on_texts: OnTexts = lambda n: None) -> None:
        folder = package_folder(MINILM) / "model"
        try:
            from transformers import AutoModel, AutoTokenizer
            from transformers.utils import logging
        except ImportError:
            raise GoldMissing("transformers is not installed", remedy="pip install transformers") from None
        bars = logging.is_progress_bar_enabled()
        logging.disable_progress_bar()
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(
                str(folder), local_files_only=True, trust_remote_code=False
            )
            self._model: Any = AutoModel.from_pretrained(
                str(folder), local_files_only=True, trust_remote_code=False
            ).eval()
        except OSError as problem:
            first = str(problem).splitlines()[0]
            raise GoldMissing(f"MiniLM cannot be read ({first})", remedy=MINILM.install) from None
        finally:
            if bars:
                logging.enable_progress_bar()
        self._on_texts = on_texts

    def __call__(self, texts: Sequence[str]) -> Vectors:
        """Embeddings (texts, 384), float32, each of length 1."""
        import torch

        found = np.zeros((len(texts), self._model.config.hidden_size), dtype=np.float32)
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))  # like lengths together: less padding
        for start in range(0, len(order), self.batch_size):
            batch = order[start : start + self.batch_size]
            encoded = self._tokenizer(
                [texts[index] for index in batch],
                padding=True,
                truncation=True,
                max_length=self.max_tokens,
                return_tensors="pt",
            )
            with torch.inference_mode():
                states = self._model(**encoded).last_hidden_state
                mask = encoded["attention_mask"].unsqueeze(-1).to(states.dtype)
                pooled = (states * mask).sum(1) / mask.sum(1)
                found[batch] = torch.nn.functional.normalize(pooled, dim=-1).numpy()
            self._on_texts(len(batch))
        return found
