"""The tables of the judge: how one judge is asked, who else votes, what its card must show before labels are made."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field, JsonValue, field_validator, model_validator

from rlaif.config.fields import ConfigTable, speed_field

OURS = {
    **dict.fromkeys(("model",), "judge.source"),
    **dict.fromkeys(("messages", "prompt", "state", "input", "questions"), "the question"),
    **dict.fromkeys(("continue_final_message", "add_generation_prompt"), "judge.prefix"),
    **dict.fromkeys(("temperature",), "judge.temperature"),
    **dict.fromkeys(("max_tokens", "max_completion_tokens"), "judge.thinking_tokens and judge.rationale_tokens"),
    **dict.fromkeys(("reasoning_effort",), "judge.reasoning_effort"),
    **dict.fromkeys(("response_format",), "judge.verdict"),
    **dict.fromkeys(("logprobs", "top_logprobs", "echo"), "judge.method"),
    **dict.fromkeys(("seed", "stop", "n", "stream"), "how answers are read"),
}
"""Field of a request to a server -> what sets it: none of them may stand in `extra_body`."""
DECIDING = ("systemone", "decisions")
"""The values of `api` that answer typed questions with probabilities, and nothing else."""
_SECRET = re.compile(
    r"(^|[_-])(secret|password|passwd|authorization|credentials?|bearer)([_-]|$)|api[_-]?key|access[_-]?token"
    r"|auth[_-]?token|(^|[_-])auth$|^((hf|x|session)[_-]?)?token$",
    re.IGNORECASE,
)


class AskingConfig(ConfigTable):
    """Who is asked, where, and how."""

    backend: str = Field(
        "local",
        description="local = transformers, openai = any OpenAI-compatible server, scripted = rules, for trials; or "
        'your own, "module:Class" (docs/extending.md)',
    )
    source: str | None = Field(None, description="model of the judge; null = the model of the run (local backend)")
    method: str = Field(
        "contrast",
        description="contrast for small models; pairwise, cot (a rationale first) and rating (one answer at a time) "
        "for ~3B and up; decision for decision models; random as a control (docs/trust-a-judge.md); or your own, "
        '"module:NAME" (docs/extending.md)',
    )
    scale: float = Field(
        0.1,
        gt=0,
        description="contrast: difference of mean token log-ratios (nats) that makes one unit of log-odds",
    )
    opening_tokens: int | None = Field(
        None,
        ge=1,
        description="contrast: tokens at the beginning of a response that are judged, null = all; a very small model "
        "tells a refusal from consent by its opening, and the rest adds noise (docs/evidence.md)",
    )
    rating_scale: float = Field(
        1.0,
        gt=0,
        description="rating: difference of two mean ratings (points, of 1 to 9) that makes one unit of log-odds; at 1 "
        "an answer that is rated one point higher wins with probability 0.73",
    )
    few_shots: int = Field(
        0,
        ge=0,
        description="pairwise and rating: contrast examples of the principle that are shown first, with their answers; "
        "contrast always shows all; cot shows none, because examples have no rationale",
    )
    rationale_tokens: int = Field(128, ge=1, description="cot: longest rationale, in tokens; a longer one is cut")
    verdict: Literal["logprobs", "json"] = Field(
        "logprobs",
        description="cot and rating: how the verdict is asked for; logprobs = by the log-probs of letters or digits, "
        "json = written under a JSON schema, for servers and models without log-probs (docs/reference/judging.md)",
    )
    clamp: tuple[float, float] | None = Field(
        (0.4, 0.6),
        description="cot alone: bounds of the probability under each order, alike on both sides of 0.5, null = none; a "
        "rationale mostly names its winner, so the letters after it are near 0 or 1 and say nothing of how sure the "
        "judge is (Constitutional AI clamps to 40-60 %)",
    )
    temperature: float | None = Field(
        0.0,
        ge=0,
        le=2,
        description="openai: temperature of the judge's answers; a model that thinks wants that of its model card, "
        "such as 0.6: at 0 many repeat themselves; null = none is sent, as OpenAI's reasoning models want it",
    )
    thinking_tokens: int = Field(
        0,
        ge=0,
        description="openai: tokens that a reasoning model may think before an answer, beside those of the answer; "
        "what is cut in its thinking is a failure (docs/reference/servers.md#a-judge-that-thinks)",
    )
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = Field(
        None, description="openai: sent as reasoning_effort, where server and model know it; null = nothing is sent"
    )
    extra_body: dict[str, JsonValue] = Field(
        {},
        description="openai: further fields of each request, such as chat_template_kwargs: {enable_thinking: false}; "
        "no keys or passwords, and none of the fields that other settings stand for",
    )
    base_url: str | None = speed_field(None, description="openai: address of the server, e.g. http://127.0.0.1:8000/v1")
    api_key_env: str = speed_field("OPENAI_API_KEY", description="openai: environment variable that holds the key")
    concurrency: int = speed_field(8, ge=1, description="openai: requests in flight, at most")
    timeout: float = speed_field(60.0, gt=0, description="openai: seconds until a try is given up")
    max_retries: int = speed_field(5, ge=0, description="openai: tries after a failed one, with growing pauses")
    api: Literal["chat", "completions", "systemone", "decisions"] = Field(
        "chat",
        description="openai: which endpoint of the server is asked; systemone (llama.cpp, vLLM, transformers serve) "
        "and decisions (OpenAI, vLLM) are for method: decision, and for it alone",
    )
    prefix: Literal["continued", "folded"] = Field(
        "continued",
        description="openai: how api: chat is told what an answer begins with; continued = as an answer that was begun "
        "(vLLM, SGLang, llama.cpp, Ollama), folded = in words, for servers that reject that, or the field "
        "repetition_penalty that choices are sent with; always so at api.openai.com",
    )
    max_calls: int | None = speed_field(
        None,
        ge=0,
        description="most requests to this judge that a run may make, all its stages and sessions together; null = no "
        "limit; answers from the cache and repeated tries do not count (docs/reference/servers.md)",
    )
    max_tokens: int | None = speed_field(
        None, ge=0, description="the same for tokens, read and written together; requests in flight may go beyond"
    )
    max_cost: float | None = speed_field(None, ge=0, description="the same for money, by price_in and price_out")
    price_in: float = speed_field(
        0.0, ge=0, description="price of a million tokens that the judge reads, in any currency"
    )
    price_out: float = speed_field(0.0, ge=0, description="price of a million tokens that the judge writes")

    @field_validator("extra_body")
    @classmethod
    def _extra_is_not_ours(cls, extra: dict[str, JsonValue]) -> dict[str, JsonValue]:
        for name in extra:
            if name in OURS:
                raise ValueError(f"{name} is set by {OURS[name]}: take it out")
        secret = next((name for name in _names(extra) if _SECRET.search(name)), None)
        if secret is not None:
            raise ValueError(
                f"{secret} looks like a key, and a config is copied into runs and cards: export it in the environment "
                "variable that judge.api_key_env names"
            )
        return extra

    @model_validator(mode="after")
    def _server_alone_thinks(self) -> AskingConfig:
        if self.backend in ("local", "scripted"):
            given = [name for name in _OF_A_SERVER if getattr(self, name) != type(self).model_fields[name].default]
            if given:
                raise ValueError(f"judge.{given[0]} is sent to a server: set judge.backend: openai, or leave it out")
        if self.api != "chat":
            given = [n for n in ("thinking_tokens", "reasoning_effort") if getattr(self, n) not in (0, None)]
            if given:
                raise ValueError(f"judge.{given[0]} needs judge.api: chat")
        if self.verdict == "json" and (self.backend == "local" or self.api != "chat"):
            raise ValueError("judge.verdict: json needs judge.backend: openai and judge.api: chat")
        return self

    @model_validator(mode="after")
    def _cost_needs_prices(self) -> AskingConfig:
        if self.max_cost is not None and not (self.price_in or self.price_out):
            raise ValueError("judge.max_cost needs judge.price_in and judge.price_out, the prices of a million tokens")
        return self

    @model_validator(mode="after")
    def _server_needs_address(self) -> AskingConfig:
        if self.backend == "openai" and self.source is None:
            raise ValueError("judge.backend: openai needs judge.source, the name of the model on the server")
        return self

    @model_validator(mode="after")
    def _clamp_is_even(self) -> AskingConfig:
        if self.clamp is not None:
            low, high = self.clamp
            if not (0 <= low < 0.5 and abs(low + high - 1) < 1e-9):
                raise ValueError(
                    f"judge.clamp {list(self.clamp)} is not alike on both sides of 0.5: write for example [0.4, 0.6]"
                )
        return self


_OF_A_SERVER = ("temperature", "thinking_tokens", "reasoning_effort", "extra_body")


def _names(value: JsonValue) -> Iterator[str]:
    """The names of all fields in the value, those within others too."""
    if isinstance(value, dict):
        yield from value
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _names(part)


class PanelMember(AskingConfig):
    """A judge that votes beside the run's own."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", description="stands on each of its verdicts")
    weight: float = Field(1.0, gt=0, description="of its vote on a principle; the run's own judge has 1")


class JudgeConfig(AskingConfig):
    """Who judges, how, and what becomes of the verdicts."""

    panel: list[PanelMember] = Field(
        [],
        description="further judges that vote on every principle beside this one: tables with a `name`, a `weight` and "
        "the fields marked *member* here",
    )
    principles: Literal["all", "one", "subset"] = Field(
        "all", description="judge a pair under all principles, or under one or subset_size of them, drawn by weight"
    )
    subset_size: int = Field(3, ge=1, description="principles: subset: how many are drawn")
    draw_per: Literal["prompt", "pair"] = Field(
        "prompt",
        description="what draws anew: pair as in Constitutional AI, or prompt, where contrast scores each response of "
        "the prompt only once",
    )
    tier_margin: float | None = Field(
        None,
        ge=0,
        lt=0.5,
        description="null = all principles count by weight, whatever their priority; else a lower tier counts only "
        "where the tier above it is undecided: nearer to 0.5 than this",
    )
    abstain_below: float = Field(
        0.0,
        ge=0,
        lt=0.5,
        description="a pair whose |prob_a - 0.5| is below this gets no label and is counted as an abstention",
    )
    calibration: Literal["none", "temperature", "isotonic"] = Field(
        "none",
        description="how the votes' mean becomes prob_a: by a map that the card fits on its gold; temperature takes "
        "some 20 pairs, isotonic some 100",
    )

    def settings(self) -> dict[str, Any]:
        """Field -> value of what can change a verdict or a label, in the tables of the panel too."""
        skipped = self.speed_fields()
        return self.model_dump(mode="json", exclude={**dict.fromkeys(skipped, True), "panel": {"__all__": skipped}})

    @property
    def weights(self) -> dict[str, float]:
        """Member -> weight of its vote; "" is the run's own judge."""
        return {"": 1.0} | {member.name: member.weight for member in self.panel}

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods in use, each once."""
        return tuple(dict.fromkeys([self.method, *(member.method for member in self.panel)]))

    @model_validator(mode="after")
    def _panel_can_sit(self) -> JudgeConfig:
        names = [member.name for member in self.panel]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two members of judge.panel are called {twice[0]!r}: a vote is known by its name")
        places: dict[tuple[str | None, str], str | None] = {}
        for asked in (self, *self.panel):
            if (
                asked.backend == "openai"
                and places.setdefault((asked.source, asked.api), asked.base_url) != asked.base_url
            ):
                raise ValueError(
                    f"the model {asked.source!r} stands at two addresses, and answers are cached by the model's name: "
                    "serve the two under different names"
                )
        return self


class CardConfig(ConfigTable):
    """What the judge is measured on before its labels are made, and what it must reach (docs/trust-a-judge.md)."""

    required: bool = speed_field(
        True, description="label is refused without a card that passes; --accept-uncarded-judge writes false here"
    )
    gold: str = Field(
        "tests",
        description="tests = the unit tests of the run's constitution; or tests:NAME, pyrit, hhh, verifiable, or a "
        "JSONL file of prompt, chosen, rejected",
    )
    pairs: int = Field(200, ge=0, description="pairs of gold that are judged; 0 = all")
    repeat: int = Field(20, ge=0, description="pairs that are asked a second time, past the cache")
    attack: int = Field(12, ge=0, description="pairs that each attack is tried on")
    min_accuracy: float = speed_field(
        0.6,
        ge=0,
        le=1,
        description="least accuracy on the gold for labels to be made; above 0.5 its 95 % interval must also leave a "
        "coin out (docs/reference/judge-card.md)",
    )
    min_length_matched: float = speed_field(
        0.0, ge=0, le=1, description="least accuracy on the pairs of gold whose answers are about equally long"
    )
    max_failed: float = speed_field(0.1, ge=0, le=1, description="largest share of the pairs without a label")
