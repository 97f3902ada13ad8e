"""`revise`: response -> critique -> revision, n rounds, one principle drawn per round (SL-CAI, arXiv 2212.08073).

Departures from the paper, all by config:
1. A gate: a revision replaces the answer only if the judge prefers it under the round's principle (`gate: 0` accepts
   every revision, as the paper does).
2. A critique that finds nothing ends the chain instead of forcing a rewrite.
3. `method: context` has no critique: the model answers again in the context of an assistant that follows the
   principle, and SFT then teaches what the context brought about (context distillation, 2112.00861; 2305.03047).
4. Several candidate revisions per round may be written; the judge takes the best that passes the gate.
Rejected candidates stay in the trace. Prompts of slices with `revise: false` are answered only: those answers keep
the policy helpful in `sft`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from rlaif.constitution.load import by_slice
from rlaif.core.errors import StageError
from rlaif.core.files import JsonlFile
from rlaif.core.records import (
    Comparison,
    Critique,
    FailedAnswer,
    Message,
    Principle,
    Prompt,
    Response,
    Revision,
    RevisionRound,
    RevisionTrace,
    record_seed,
)
from rlaif.inputs.templates import CRITIQUE, REVISION, Template, load_template
from rlaif.judge.methods.contrast import TEMPLATE as CONTRAST
from rlaif.judge.methods.contrast import contexts
from rlaif.lm.open import OnDemand
from rlaif.lm.protocol import GenerateRequest
from rlaif.stages.context import StageContext
from rlaif.stages.resume import answer_record, chunks, commonest, failed_answers, resume

NO_CHANGE = re.compile(r"^\W*no (change|changes|revision|problem)s?\b", re.IGNORECASE)


@dataclass(slots=True)
class _Chain:
    """One prompt on its way through the rounds."""

    prompt: Prompt
    response: Response
    rounds: list[RevisionRound] = field(default_factory=list)
    open: bool = True

    @property
    def answer(self) -> Response:
        return RevisionTrace(self.prompt, self.response, tuple(self.rounds), "").final


_Step = tuple[_Chain, Principle, Critique | None]
"""A chain whose answer is to be revised, under which principle, and the critique, if there is one."""


def run(context: StageContext) -> dict[str, float]:
    """Writes revise/traces.jsonl; returns counts of traces, rounds, accepted and rejected revisions, failures."""
    prompts = context.train_prompts()
    worker = _Reviser(context)
    with context.progress.task("critique and revision", len(prompts), "prompts") as task:
        records = resume(
            chunks(prompts, context.config.revise.batch_size),
            files=(JsonlFile(context.folder / "traces.jsonl", RevisionTrace), failed_answers(context.folder)),
            keys=lambda prompt: [prompt.id],
            key_of=lambda record: record.prompt.id if isinstance(record, RevisionTrace) else record.prompt_id,
            work=worker.work,
            task=task,
        )
    worker.close()
    traces = [record for record in records if isinstance(record, RevisionTrace)]
    unanswered = [record for record in records if isinstance(record, FailedAnswer)]
    if not traces and context.shard is None:
        raise StageError(
            f"the model answered no prompt{commonest(unanswered)}",
            where=str(context.folder / "failures.jsonl"),
            remedy="look at the model: rlaif check",
        )
    return _counts(traces, unanswered)


class _Reviser:
    """Runs chains of a chunk of prompts side by side, one batch of calls per step. Opens its models on first use."""

    def __init__(self, context: StageContext) -> None:
        self.context, self.table, self.seed = context, context.config.revise, context.config.seed
        self.constitution = context.constitution
        self.scopes = by_slice(context.constitution, context.config.prompts)
        folder = context.run.templates_path
        self.templates: dict[str, Template] = {k.name: load_template(k, folder) for k in (CRITIQUE, REVISION, CONTRAST)}
        self.plain = {name for name, part in context.config.prompts.items() if not part.revise}
        self.policy = OnDemand(lambda: context.open_policy(()))
        self.judge = context.judge()

    def work(self, prompts: Sequence[Prompt]) -> list[RevisionTrace | FailedAnswer]:
        """One trace per prompt that the model answered, and the failures of the others."""
        # 1. The first answers.
        requests = [self._request(prompt, "response") for prompt in prompts]
        chains: list[_Chain] = []
        unanswered: list[FailedAnswer] = []
        for prompt, request, answer in zip(prompts, requests, self.policy.ask(requests), strict=True):
            response = answer_record(prompt, "base", request, answer)
            if isinstance(response, FailedAnswer):
                unanswered.append(response)
            else:
                chains.append(_Chain(prompt, response, open=prompt.slice not in self.plain))
        # 2. The rounds.
        for number in range(self.table.rounds):
            self._round(number, [chain for chain in chains if chain.open])
        traces = [RevisionTrace(c.prompt, c.response, tuple(c.rounds), self.constitution.hash) for c in chains]
        return [*traces, *unanswered]

    def _round(self, number: int, chains: Sequence[_Chain]) -> None:
        principles = [
            self.scopes[chain.prompt.slice].draw(record_seed(self.seed, "principle", chain.prompt.id, number))
            for chain in chains
        ]
        critiques: list[Critique] | list[None] = [None] * len(chains)
        if self.table.method == "critique":
            critiques = self._critiques(number, chains, principles)
        going = [
            (chain, principle, critique)
            for chain, principle, critique in zip(chains, principles, critiques, strict=True)
            if critique is None or (critique.failure is None and not critique.no_change)
        ]
        for chain, principle, critique in zip(chains, principles, critiques, strict=True):
            if critique is not None and (critique.failure is not None or critique.no_change):
                chain.rounds.append(RevisionRound(number, principle.id, critique, ()))
                chain.open = not critique.no_change
        written = self._revisions(number, going)
        judged = self._gate(going, written)
        for (chain, principle, critique), revisions in zip(going, judged, strict=True):
            chain.rounds.append(RevisionRound(number, principle.id, critique, revisions))

    def _critiques(self, number: int, chains: Sequence[_Chain], principles: Sequence[Principle]) -> list[Critique]:
        requests = []
        for chain, principle in zip(chains, principles, strict=True):
            rendered = self.templates["critique"].render(
                principle=principle, prompt=chain.prompt, response=chain.answer.text, few_shots=self.table.few_shots
            )
            seed = record_seed(self.seed, "critique", chain.prompt.id, number)
            tokens = self.table.critique_tokens
            requests.append(GenerateRequest(rendered.messages, tokens, self.table.temperature, seed, rendered.prefix))
        return [
            Critique(answer.text or "", bool(NO_CHANGE.match(answer.text or "")), request.seed, answer.failure)
            for request, answer in zip(requests, self.policy.ask(requests), strict=True)
        ]

    def _revisions(self, number: int, going: Sequence[_Step]) -> list[list[Revision]]:
        """`revise.candidates` revisions per chain, not yet judged."""
        requests = []
        for chain, principle, critique in going:
            messages, prefix = self._asked(chain, principle, critique)
            requests += [
                GenerateRequest(
                    messages,
                    self.table.max_new_tokens,
                    self.table.temperature,
                    record_seed(self.seed, "revision", chain.prompt.id, number, k),
                    prefix,
                )
                for k in range(self.table.candidates)
            ]
        answers = iter(zip(requests, self.policy.ask(requests), strict=True))
        written = []
        for chain, _, _ in going:
            revisions = []
            for _ in range(self.table.candidates):
                request, answer = next(answers)
                found = answer_record(chain.prompt, "revision", request, answer)
                response = found if isinstance(found, Response) else None
                revisions.append(Revision(response, None, accepted=False, failure=answer.failure))
            written.append(revisions)
        return written

    def _asked(self, chain: _Chain, principle: Principle, critique: Critique | None) -> tuple[tuple[Message, ...], str]:
        """The conversation that asks for a revision, and how the revision begins."""
        if critique is None:
            return contexts(principle, chain.prompt, self.templates["contrast"], remind=False)[0], ""
        rendered = self.templates["revision"].render(
            principle=principle,
            prompt=chain.prompt,
            response=chain.answer.text,
            critique=critique.text,
            few_shots=self.table.few_shots,
        )
        return rendered.messages, rendered.prefix

    def _gate(self, going: Sequence[_Step], written: Sequence[list[Revision]]) -> list[tuple[Revision, ...]]:
        """The revisions with P(better than the answer before) under the round's principle; at most one is accepted."""
        asked = [
            (row, place, Comparison(chain.prompt, revision.response, chain.answer), principle)
            for row, ((chain, principle, _), revisions) in enumerate(zip(going, written, strict=True))
            for place, revision in enumerate(revisions)
            if revision.response is not None
        ]
        answers = [chain.answer.text for chain, _, _ in going]
        labels = self.judge.label_under([c for _, _, c, _ in asked], [(p,) for _, _, _, p in asked])
        for (row, place, _, _), label in zip(asked, labels, strict=True):
            written[row][place] = Revision(
                written[row][place].response, label.prob_a, False, label.verdicts, label.failure
            )
        return [tuple(self._accept_best(*pair)) for pair in zip(answers, written, strict=True)]

    def _accept_best(self, answer: str, revisions: Sequence[Revision]) -> list[Revision]:
        # What repeats the answer word for word is no revision of it, whatever the judge or the gate says.
        # Without a gate a revision stands even where the judge could not say how good it is, but behind all others.
        scores = [-1.0 if r.prob_better is None else r.prob_better for r in revisions]
        passing = [
            (score, -place)
            for place, (r, score) in enumerate(zip(revisions, scores, strict=True))
            if r.response is not None
            and r.response.text != answer
            and (score > self.table.gate or self.table.gate == 0)
        ]
        best = -max(passing)[1] if passing else None
        return [
            Revision(r.response, r.prob_better, place == best, r.verdicts, r.failure)
            for place, r in enumerate(revisions)
        ]

    def _request(self, prompt: Prompt, purpose: str) -> GenerateRequest:
        seed = record_seed(self.seed, purpose, prompt.id)
        return GenerateRequest(prompt.messages, self.table.max_new_tokens, self.table.temperature, seed)

    def close(self) -> None:
        """Closes what was opened."""
        self.policy.close()
        self.judge.close()


def _counts(traces: Sequence[RevisionTrace], unanswered: Sequence[FailedAnswer]) -> dict[str, float]:
    rounds = [turn for trace in traces for turn in trace.rounds]
    revisions = [revision for turn in rounds for revision in turn.revisions]
    failures = Counter(answer.failure.kind for answer in unanswered)
    critiques = [turn.critique for turn in rounds if turn.critique is not None]
    failures.update(critique.failure.kind for critique in critiques if critique.failure is not None)
    missing = [revision.failure.kind for revision in revisions if revision.failure is not None]
    failures.update(kind for kind in missing if kind != "abstained")
    return {
        "prompts": len(traces) + len(unanswered),
        "unanswered": len(unanswered),
        "traces": len(traces),
        "revised": sum(trace.revised for trace in traces),
        "rounds": len(rounds),
        "no_change": sum(critique.no_change for critique in critiques),
        "revisions": len(revisions),
        "accepted": sum(revision.accepted for revision in revisions),
        "abstained": missing.count("abstained"),
        "failed": sum(failures.values()),
        **{f"failed_{kind}": number for kind, number in sorted(failures.items())},
    }
