"""Questions with a probability for each option, answered by a model on this machine through transformers' pipeline.

The probabilities are those of the options' letters as the next token. A `decision.json` beside the model's weights says
otherwise; a model with a head of its own for decisions is served, not loaded here.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from rlaif.core.records import Failure
from rlaif.lm.local.load import LoadedModel
from rlaif.lm.protocol import DecisionRequest, Decisions, Usage


class Decider:
    """The pipeline around a loaded model. It adds tokens to its tokenizer, so it has one of its own."""

    def __init__(self, loaded: LoadedModel, context: int) -> None:
        from transformers.pipelines import DecisionPipeline

        self._pipeline = DecisionPipeline(model=loaded.model, tokenizer=copy.deepcopy(loaded.tokenizer))
        self._context = context

    def decide(self, requests: Sequence[DecisionRequest], usage: Usage) -> list[Decisions]:
        """The answer to each request, in order; counted in `usage`."""
        return [self._decided(request, usage) for request in requests]

    def _decided(self, request: DecisionRequest, usage: Usage) -> Decisions:
        usage.calls += 1
        asked: dict[str, Any] = {
            question.name: {
                "type": "choice",
                "instructions": question.instructions,
                "criteria": dict.fromkeys(question.options),
            }
            for question in request.questions
        }
        try:
            prepared = self._pipeline.preprocess({"state": request.state, "questions": asked})
            lengths = [inputs["input_ids"].shape[-1] for inputs, _ in prepared["prompts"]]
            if max(lengths) > self._context:
                reason = f"{max(lengths)} tokens do not fit the context of {self._context}"
                return Decisions(None, Failure("context_overflow", reason))
            answers = self._pipeline.postprocess(self._pipeline.forward(prepared))
        except ValueError as problem:  # letters that are no single tokens of the model, too many options
            return Decisions(None, Failure("off_menu", str(problem)))
        usage.prompt_tokens += sum(lengths)
        return Decisions(
            tuple(
                tuple(float(answers[question.name]["probabilities"][option]) for option in question.options)
                for question in request.questions
            )
        )
