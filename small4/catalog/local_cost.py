"""What a token costs on one's own machine: power and hardware by the hour, over the tokens of that hour.

    USD per hour = watts / 1000 x USD per kWh + hardware USD / (years x 8760 h x share of the time that it is used)
    USD per million tokens = USD per hour / 3600 / (tokens per second) x 1,000,000

Prompt and answer have rates of their own, since a machine reads faster than it writes. What is found in the prefix
cache costs no computation. Without a measured speed, or with neither power nor hardware given, a rate is unknown.
"""

from dataclasses import dataclass
from decimal import Decimal

from small4.catalog.price import MILLION, Prices, Rates, Tier
from small4.errors import ConfigError

HOURS_PER_YEAR = 8760


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalCost:
    """What the machine draws, cost and does; None is not known."""

    watts: Decimal | None = None  # while it answers, the whole machine
    usd_per_kwh: Decimal | None = None
    hardware_usd: Decimal | None = None
    hardware_years: Decimal = Decimal(3)  # until it is worth nothing
    used_share: Decimal = Decimal(1)  # of these years
    prompt_tokens_per_second: Decimal | None = None
    output_tokens_per_second: Decimal | None = None

    def __post_init__(self) -> None:
        if (self.watts is None) != (self.usd_per_kwh is None):
            raise ConfigError("power is priced from watts and the price of a kWh; give both or neither")
        if not (self.hardware_years > 0 and 0 < self.used_share <= 1):
            raise ConfigError("hardware lasts more than 0 years and is used for a share over 0, to 1")
        speeds = (self.prompt_tokens_per_second, self.output_tokens_per_second)
        if any(speed is not None and speed <= 0 for speed in speeds):
            raise ConfigError("a speed is over 0 tokens per second; leave it out if it is not known")

    @property
    def usd_per_hour(self) -> Decimal | None:
        """Power and hardware, as far as they are given."""
        parts = []
        if self.watts is not None and self.usd_per_kwh is not None:
            parts.append(self.watts / 1000 * self.usd_per_kwh)
        if self.hardware_usd is not None:
            parts.append(self.hardware_usd / (self.hardware_years * HOURS_PER_YEAR * self.used_share))
        return sum(parts, Decimal(0)) if parts else None

    def prices(self) -> Prices:
        """As a route's prices."""
        rates = Rates(
            prompt=self._rate(self.prompt_tokens_per_second),
            output=self._rate(self.output_tokens_per_second),
            cached=None if self.usd_per_hour is None else Decimal(0),
        )
        return Prices(tiers=(Tier(standard=rates, batch=rates),))

    def _rate(self, tokens_per_second: Decimal | None) -> Decimal | None:
        if tokens_per_second is None or self.usd_per_hour is None:
            return None
        return self.usd_per_hour / 3600 / tokens_per_second * MILLION
