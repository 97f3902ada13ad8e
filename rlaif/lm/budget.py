"""What a judge may cost: the limits of the config, and whether what was spent has reached one of them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from rlaif.config import AskingConfig, PanelMember
from rlaif.core.errors import BudgetError
from rlaif.lm.protocol import Usage

MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits on requests, on tokens (read and written together) and on money; None = none.

    Prices are those of a million tokens read (`price_in`) and written (`price_out`), in the currency of `max_cost`.
    `table` is where the limits stand in the config, `of` the number of shards that share them.
    """

    max_calls: int | None = None
    max_tokens: int | None = None
    max_cost: float | None = None
    price_in: float = 0.0
    price_out: float = 0.0
    table: str = "judge"
    of: int = 1

    @classmethod
    def from_config(cls, judge: AskingConfig) -> Budget:
        """The limits and prices of a config's `judge` table or of a member of its panel."""
        table = f"judge.panel.{judge.name}" if isinstance(judge, PanelMember) else "judge"
        return cls(judge.max_calls, judge.max_tokens, judge.max_cost, judge.price_in, judge.price_out, table)

    def share(self, of: int, spent: Usage) -> Budget:
        """What one of so many shards may spend: an equal part of what is left, beside what is spent."""

        def part(limit: float | None, used: float) -> float | None:
            return None if limit is None else used + max(0.0, limit - used) / of

        def whole(limit: int | None, used: int) -> int | None:
            return None if limit is None else used + max(0, limit - used) // of

        return replace(
            self,
            max_calls=whole(self.max_calls, spent.calls),
            max_tokens=whole(self.max_tokens, spent.prompt_tokens + spent.generated_tokens),
            max_cost=part(self.max_cost, self.cost(spent)),
            of=of,
        )

    @property
    def counts_tokens(self) -> bool:
        """Whether a limit can only be kept if the server says how many tokens it used."""
        return self.max_tokens is not None or self.max_cost is not None

    def cost(self, spent: Usage) -> float:
        return (spent.prompt_tokens * self.price_in + spent.generated_tokens * self.price_out) / MILLION

    def reached(self, spent: Usage) -> str | None:
        """The field and value of the first limit that leaves no room for another request, or None."""
        for_shard = f" for one of {self.of} shards" if self.of > 1 else ""
        if self.max_calls is not None and spent.calls >= self.max_calls:
            return f"{self.table}.max_calls ({self.max_calls:,}{for_shard})"
        if self.max_tokens is not None and spent.prompt_tokens + spent.generated_tokens >= self.max_tokens:
            return f"{self.table}.max_tokens ({self.max_tokens:,}{for_shard})"
        if self.max_cost is not None and self.cost(spent) >= self.max_cost:
            return f"{self.table}.max_cost ({self.max_cost:g}{for_shard})"
        return None

    def error(self, limit: str, spent: Usage, unasked: int) -> BudgetError:
        """The error that ends the work at the limit, with `unasked` requests of the call left."""
        paid = [f"{spent.calls:,} calls", f"{spent.prompt_tokens + spent.generated_tokens:,} tokens"]
        if self.price_in or self.price_out:
            cost = self.cost(spent)
            paid.append(f"{cost:,.2f} in money" if cost >= 0.1 else f"{cost:.2g} in money")
        return BudgetError(
            f"the judge's budget is spent: {', '.join(paid)}; not asked: {unasked:,} of this batch",
            where=limit,
            remedy="every answer that was paid for is kept: raise the limit with --set and run the same command with "
            "--resume",
        )
