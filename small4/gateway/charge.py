"""What an attempt is charged to its budgets: what it cost where that is known, else what it cost at most.

    told       tokens x prices; cached tokens of unknown price as uncached ones
    not told   a token for every byte of the prompt and of what was seen of the answer, but no more than was held

The ledger shows the likely number of tokens beside either, marked as an estimate where it is one.
"""

from dataclasses import dataclass
from decimal import Decimal

from small4.catalog.price import Prices, cost_of
from small4.chat import ChatRequest, Usage
from small4.gateway.worst_case import most_cost_of
from small4.providers.estimate import num_images


@dataclass(frozen=True, slots=True)
class Charge:
    """Dollars; None where no bound is known either."""

    dollars: Decimal | None
    is_estimate: bool  # the tokens or a price were not told


def charge_of(
    usage: Usage, request: ChatRequest, *, context_tokens: int, prices: Prices, answer_bytes: int, held: Decimal | None
) -> Charge:
    """What an attempt is charged of which these tokens were told, or guessed, and so many bytes seen."""
    cost = cost_of(usage, prices, num_images=num_images(request))
    likely = cost.at_most_usd
    if not usage.is_estimated or likely is None:
        return Charge(likely, usage.is_estimated or (cost.usd is None and likely is not None))
    most = most_cost_of(request, context_tokens, prices, answer_bytes)
    known = [bound for bound in (most, held) if bound is not None]
    return Charge(max(likely, min(known, default=likely)), is_estimate=True)
