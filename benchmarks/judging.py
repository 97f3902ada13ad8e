"""Comparisons judged a second by log-probs: ours, a padded batch and a plain transformers loop, in alternation.

    python benchmarks/judging.py [--method pairwise|contrast ...] [--comparisons 16] [--repeats 3] [--threads 1]

A comparison is a pair of answers under one principle; the pairs are the shipped constitutions' unit tests, judged under
every principle of harmless-and-kind. `pairwise` is asked in both orders behind a long beginning (all rules, two
examples), `contrast` behind its own system prompts and examples; a next call judges other pairs under the same
principles. The loop takes one request at a time, the padded batches are sorted by length; both make the logits of every
token and are measured on fewer comparisons, since each costs the same. With one thread the clock counts CPU seconds, so
that other work on the machine disturbs less.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch

from rlaif.config import AskingConfig, ModelConfig
from rlaif.constitution.load import load_constitution
from rlaif.core.records import Comparison, Constitution, Message, Prompt, Response
from rlaif.inputs.templates import Template, load_template
from rlaif.judge.methods import contrast, pairwise
from rlaif.judge.methods.method import Ask, Asker
from rlaif.lm.local import model as local
from rlaif.lm.local.cpu import prefix_walker as walker
from rlaif.lm.local.cpu.walk_plan import plan
from rlaif.lm.local.load import encode_chat, encode_text, load_model
from rlaif.lm.local.model import LocalModel
from rlaif.lm.protocol import ScoreRequest
from rlaif.lm.scripted import ScriptedModel

TESTS_OF = ("harmless-and-kind", "helpful-honest-harmless", "child-safe", "customer-support", "concise-and-direct")
Row = tuple[list[int], list[int]]
Numbers = list[list[float]]
SETTINGS = AskingConfig.model_validate({})


constitution_of = cache(load_constitution)


def asked(method: str, number: int) -> list[Any]:
    """The requests of `number` comparisons, in order: 2 each for pairwise, 4 each for contrast."""
    constitution, seen = constitution_of("harmless-and-kind"), list[Any]()
    recorder = ScriptedModel(seen.append)
    tests = [test for name in TESTS_OF for p in constitution_of(name).principles for test in p.tests]
    for test in tests:
        prompt = Prompt((Message("user", test.prompt),))
        a, b = (Response(prompt.id, text, "", 0, 0.0, "stop", 0) for text in (test.better, test.worse))
        asks = [Ask(Comparison(prompt, a, b), principle) for principle in constitution.principles]
        if method == "pairwise":
            pairwise.ask(asks, Asker(SETTINGS, 0, recorder, long_template(constitution)))
        else:
            contrast.ask(asks, Asker(SETTINGS, 0, recorder, load_template(contrast.TEMPLATE)))
        if len(seen) >= number * per_comparison(method):
            return seen[: number * per_comparison(method)]
    raise SystemExit(f"--comparisons: there are {len(tests) * len(constitution.principles)}")


def per_comparison(method: str) -> int:
    return 2 if method == "pairwise" else 4


def long_template(constitution: Constitution) -> Template:
    """The shipped pairwise template behind all rules and two worked examples."""
    rules = "\n".join(f"- {p.statement}" for p in constitution.principles)
    examples = [
        f"> {p.tests[0].prompt}\nRule: {p.statement}\nAnswer (A):\n> {first}\nAnswer (B):\n> {second}\n"
        f"The better answer is ({letter})."
        for p, letter in zip(constitution.principles, "AB", strict=False)
        for first, second in [(p.tests[0].better, p.tests[0].worse)][:: 1 if letter == "A" else -1]
    ]
    text = load_template(pairwise.TEMPLATE).text
    mark = "{% endmessage %}"
    return Template(pairwise.TEMPLATE, text.replace(mark, "\n\n".join(["\n", rules, *examples, mark]), 1))


def row_of(model: LocalModel, request: Any) -> list[Row]:
    """The (context, target) rows of a request as a plain program would make them."""
    chat = encode_chat(model.tokenizer, request.messages)
    if isinstance(request, ScoreRequest):
        return [(chat, encode_text(model.tokenizer, request.response))]
    ids = [encode_text(model.tokenizer, request.prefix + choice) for choice in request.choices]
    return [(chat + tail[:-1], tail[-1:]) for tail in ids]


@torch.no_grad()
def loop(model: LocalModel, requests: Sequence[Any]) -> Numbers:
    """One request at a time, all logits; the choices of one share a forward pass, as a careful loop would have it."""
    return [values for request in requests for values in batches(model, [request], 1)]


@torch.no_grad()
def batches(model: LocalModel, requests: Sequence[Any], size: int) -> Numbers:
    """Padded batches of like length, all logits."""
    rows = [row_of(model, request) for request in requests]
    order = sorted(range(len(rows)), key=lambda i: sum(map(len, rows[i][0])))
    result: Numbers = [[] for _ in rows]
    for begin in range(0, len(order), size):
        chosen = order[begin : begin + size]
        sequences = [[*rows[i][0][0], *rows[i][0][1][:-1]] for i in chosen]
        width = max(map(len, sequences))
        ids = torch.tensor([[*ids, *[0] * (width - len(ids))] for ids in sequences])
        logits = model.lm.model(input_ids=ids, use_cache=False).logits
        for line, i in enumerate(chosen):
            for context, target in rows[i]:
                last = len(context) - 1
                found = logits[line, last : last + len(target)].float().log_softmax(-1)
                result[i] += found.gather(1, torch.tensor(target)[:, None]).squeeze(1).tolist()
    return result


def ours(model: LocalModel, requests: Sequence[Any]) -> Numbers:
    if isinstance(requests[0], ScoreRequest):
        return [list(answer.token_logprobs or ()) for answer in model.ask(requests)]
    return [list(answer.logprobs or ()) for answer in model.ask(requests)]


def forgotten(model: LocalModel) -> None:
    """Nothing is left of earlier calls."""
    model.prefixes.entries.clear()
    if model.walker is not None:
        model.walker.kept.clear()
        model.walker.held = ()


@contextmanager
def unwalked(model: LocalModel) -> Iterator[None]:
    """Our packed batches, which serve where a walk does not (a GPU, some models)."""
    kept, model.walker = model.walker, None
    try:
        yield
    finally:
        model.walker = kept


def apart(found: Numbers, other: Numbers) -> float:
    return max(abs(x - y) for a, b in zip(found, other, strict=False) for x, y in zip(a, b, strict=True))


def measure(method: str, models: dict[str, LocalModel], given: argparse.Namespace, clock: Callable[[], float]) -> None:
    both, each = asked(method, 2 * given.comparisons), per_comparison(method)
    requests, later = both[: len(both) // 2], both[len(both) // 2 :]
    few, some = requests[: each * given.loop], requests[: each * given.naive]

    def packed(dtype: str) -> Numbers:
        with unwalked(models[dtype]):
            return ours(models[dtype], requests)

    ways: dict[str, tuple[int, Callable[[], Numbers]]] = {
        "loop float32": (given.loop, lambda: loop(models["float32"], few))
    }
    for dtype in models:
        ways[f"padded {dtype}"] = given.naive, lambda dtype=dtype: batches(models[dtype], some, given.batch)
        ways[f"ours, packed {dtype}"] = given.comparisons, lambda dtype=dtype: packed(dtype)
        ways[f"ours {dtype}"] = given.comparisons, lambda dtype=dtype: ours(models[dtype], requests)
        ways[f"ours {dtype}, next call"] = given.comparisons, lambda dtype=dtype: ours(models[dtype], later)
    rates: dict[str, list[float]] = {name: [] for name in ways}
    answers: dict[str, Numbers] = {}
    for repeat in range(given.repeats):
        for name in ways:
            if not name.endswith("next call"):
                for model in models.values():
                    forgotten(model)
            number, work = ways[name]
            start = clock()
            answers[name] = work()
            rates[name].append(number / (clock() - start))
        print(f"round {repeat + 1} of {given.repeats} is done", flush=True)
    header = (
        "| way | comparisons/s, median (lowest to highest) | x padded | x loop | log-probs at most from the loop's |"
    )
    print(f"\n{method}, {given.comparisons} comparisons\n\n{header}\n|---|---|---|---|---|")
    for name, found in rates.items():
        dtype = "bfloat16" if "bfloat16" in name else "float32"
        by_padded, by_loop = (
            statistics.median(x / y for x, y in zip(found, rates[way], strict=True))
            for way in (f"padded {dtype}", "loop float32")
        )
        spread = f"{statistics.median(found):.3f} ({min(found):.3f} to {max(found):.3f})"
        far = "" if name.endswith("next call") else f"{apart(answers[name], answers['loop float32']):.2g}"
        print(f"| {name} | {spread} | {by_padded:.1f} | {by_loop:.1f} | {far} |")
    print()
    for dtype, model in models.items():
        speed = max(rates[f"ours {dtype}"]), statistics.median(rates[f"ours {dtype}"])
        where_it_goes(method, model, requests, given, clock, dtype, speed)


def where_it_goes(
    method: str,
    model: LocalModel,
    requests: Sequence[Any],
    given: argparse.Namespace,
    clock: Callable[[], float],
    dtype: str,
    speed: tuple[float, float],
) -> None:
    """Prints the seconds of each part, the floor and what changes when the same is asked again in other batches."""
    forgotten(model)
    spent: dict[str, float] = {}
    start = clock()
    asked(method, given.comparisons)
    spent["templates"] = clock() - start
    assert model.walker is not None
    parts = [(local, "encode_chat", "tokens"), (local, "encode_text", "tokens"), (walker, "plan", "plan")]
    parts += [
        (model.walker, "_forward", "forward"),
        (model.walker, "attend", "attention"),
        (model.walker, "_read", "head"),
    ]
    with timed(parts, spent, clock):
        start = clock()
        ours(model, requests)
        whole = clock() - start
    spent["forward without attention"] = spent.pop("forward") - spent["attention"]
    spent["rest"] = whole - sum(seconds for name, seconds in spent.items() if name != "templates")
    whole += spent["templates"]
    listed = ", ".join(f"{name} {seconds / whole:.1%}" for name, seconds in spent.items())
    print(f"{dtype}: {whole:.1f} s with templates: {listed}")
    work, tokens, plain = flops(model, requests)
    rate = gemm_rate(model, clock)
    floor = given.comparisons / (work / rate)
    print(
        f"{dtype}: {tokens} tokens to compute of {plain}; {work / 1e12:.2f} TFLOP at {rate / 1e9:.0f} GFLOP/s (matrix "
        f"products of this model, now) allow {floor:.2f} comparisons/s: reached {speed[1] / floor:.0%}, at best "
        f"{speed[0] / floor:.0%}"
    )
    for name, again in (("ours", lambda part: ours(model, part)), ("ours, packed", lambda part: unpacked(model, part))):
        same, moved = asked_again(requests, again)
        print(
            f"{dtype}: {name}, asked again in other batches: {same:.0%} of answers the same bits, at most {moved:.2g}"
        )
    print(flush=True)


def unpacked(model: LocalModel, requests: Sequence[Any]) -> Numbers:
    with unwalked(model):
        return ours(model, requests)


def asked_again(requests: Sequence[Any], answer: Callable[[Sequence[Any]], Numbers]) -> tuple[float, float]:
    """(share of requests with the very same answer, largest change of a mean log-prob) in shuffled parts of 7."""
    requests = requests[:42]
    before = answer(requests)
    order = random.Random(0).sample(range(len(requests)), len(requests))
    after: Numbers = [[] for _ in requests]
    for begin in range(0, len(order), 7):
        part = order[begin : begin + 7]
        for i, values in zip(part, answer([requests[i] for i in part]), strict=True):
            after[i] = values
    same = statistics.mean(a == b for a, b in zip(before, after, strict=True))
    means = zip(map(statistics.mean, before), map(statistics.mean, after), strict=True)
    return same, max(abs(a - b) for a, b in means)


@contextmanager
def timed(parts: Sequence[tuple[Any, str, str]], spent: dict[str, float], clock: Callable[[], float]) -> Iterator[None]:
    """Adds to `spent` what calls of the attributes take."""
    kept = [(owner, name, getattr(owner, name)) for owner, name, _ in parts]

    def wrapped(work: Callable[..., Any], part: str) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            start = clock()
            try:
                return work(*args, **more)
            finally:
                spent[part] = spent.get(part, 0.0) + clock() - start

        return call

    for (owner, name, part), (_, _, work) in zip(parts, kept, strict=True):
        setattr(owner, name, wrapped(work, part))
    try:
        yield
    finally:
        for owner, name, work in kept:
            setattr(owner, name, work)


def flops(model: LocalModel, requests: Sequence[Any]) -> tuple[float, int, int]:
    """(operations, tokens) of every distinct beginning computed once, and the tokens of all requests in full."""
    rows = [row for request in requests for row in row_of(model, request)]
    steps = plan(rows).steps
    states = len({(*context, *target[:place]) for context, target in rows for place in range(len(target))})
    tokens = sum(len(step.ids) for step in steps)
    seen = sum(place + 1 for step in steps for place in range(step.start, step.end))
    config = model.lm.model.config.get_text_config()
    width = config.num_attention_heads * getattr(config, "head_dim", config.hidden_size // config.num_attention_heads)
    linear = sum(m.weight.numel() for m in linears(model))
    plain = sum(len(rows[0][0]) + len(rows[0][1]) - 1 for rows in (row_of(model, request) for request in requests))
    attention = 4.0 * width * config.num_hidden_layers * seen
    return 2.0 * linear * tokens + attention + 2.0 * model.lm.head.weight.numel() * states, tokens, plain


def linears(model: LocalModel) -> list[Any]:
    return [m for m in model.lm.trunk.modules() if isinstance(m, torch.nn.Linear)]


@torch.no_grad()
def gemm_rate(model: LocalModel, clock: Callable[[], float]) -> float:
    """Operations a second of the trunk's own matrix products with 1024 rows, the best of five."""
    products = linears(model)
    rows = {m.in_features: torch.randn(1024, m.in_features).to(m.weight.dtype) for m in products}
    seconds = []
    for _ in range(5):
        start = clock()
        for m in products:
            m(rows[m.in_features])
        seconds.append(clock() - start)
    return 2.0 * 1024 * sum(m.weight.numel() for m in products) / min(seconds)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--method", nargs="+", default=["pairwise", "contrast"], choices=["pairwise", "contrast"])
    parser.add_argument("--comparisons", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"], choices=["float32", "bfloat16"])
    parser.add_argument("--loop", type=int, default=1, help="comparisons of the loop")
    parser.add_argument("--naive", type=int, default=4, help="comparisons of the padded batches")
    parser.add_argument("--batch", type=int, default=8, help="requests in a padded batch")
    parser.add_argument("--model", default="embedded")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    clock = time.process_time if given.threads == 1 else time.perf_counter
    dtypes = dict.fromkeys(["float32", *given.dtypes])  # the loop is in float32
    settings = [{"source": given.model, "dtype": dtype, "device": "cpu"} for dtype in dtypes]
    models = {str(s["dtype"]): LocalModel(load_model(ModelConfig.model_validate(s))) for s in settings}
    for method in given.method:
        measure(method, models, given, clock)


if __name__ == "__main__":
    main()
