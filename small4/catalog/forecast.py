"""What a workload costs on a route: so many requests of a size, some of it cached, some of it thought."""

from dataclasses import dataclass
from decimal import Decimal

from small4.catalog.price import Cost, Prices, cost_of
from small4.chat import Usage
from small4.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Requests that are all alike."""

    num_requests: int = 1
    prompt_tokens: int  # of one request
    output_tokens: int  # of one request, thinking included
    cached_share: Decimal = Decimal(0)  # of the prompt
    reasoning_share: Decimal = Decimal(0)  # of the output
    is_batch: bool = False

    def __post_init__(self) -> None:
        for name, share in (("cached", self.cached_share), ("reasoning", self.reasoning_share)):
            if not 0 <= share <= 1:
                raise ConfigError(f"the {name} share is {share}; it must be from 0% to 100%")
        if min(self.num_requests, self.prompt_tokens, self.output_tokens) < 0:
            raise ConfigError("a workload has no fewer than 0 requests and tokens")

    @property
    def usage(self) -> Usage:
        """Of one request; shares are rounded down to whole tokens."""
        return Usage(
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.output_tokens,
            cached_tokens=int(self.prompt_tokens * self.cached_share),
            reasoning_tokens=int(self.output_tokens * self.reasoning_share),
        )

    def cost(self, prices: Prices) -> Cost:
        """Of all of it on one route."""
        return cost_of(self.usage, prices, is_batch=self.is_batch).times(self.num_requests)


# Sizes to begin with, not measurements: a month of one application. Give your own where you know them.
PRESETS: dict[str, Workload] = {
    "chat": Workload(num_requests=30_000, prompt_tokens=1_200, output_tokens=350, cached_share=Decimal("0.5")),
    "rag": Workload(num_requests=30_000, prompt_tokens=6_000, output_tokens=400, cached_share=Decimal("0.2")),
    "agent": Workload(
        num_requests=20_000,
        prompt_tokens=12_000,
        output_tokens=600,
        cached_share=Decimal("0.8"),
        reasoning_share=Decimal("0.4"),
    ),
    "batch": Workload(num_requests=100_000, prompt_tokens=2_000, output_tokens=300, is_batch=True),
    "code": Workload(
        num_requests=10_000,
        prompt_tokens=8_000,
        output_tokens=1_500,
        cached_share=Decimal("0.6"),
        reasoning_share=Decimal("0.5"),
    ),
}
