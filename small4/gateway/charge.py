"""What an attempt is charged to its budgets: what it cost where that is known, else what it cost at most."""

from dataclasses import dataclass
from decimal import Decimal

from small4.catalog.price import Prices, cost_of
from small4.chat import Usage


@dataclass(frozen=True, slots=True)
class Charge:
    """Dollars; None where no bound is known either."""

    dollars: Decimal | None
    is_estimate: bool  # the tokens or a price were not told


def charge_of(usage: Usage, prices: Prices, *, num_images: int = 0) -> Charge:
    """What these tokens are charged; cached ones of unknown price as uncached ones."""
    cost = cost_of(usage, prices, num_images=num_images)
    is_bound = cost.usd is None and cost.at_most_usd is not None
    return Charge(cost.at_most_usd, usage.is_estimated or is_bound)
