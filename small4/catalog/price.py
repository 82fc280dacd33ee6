"""What a request costs on a route, in exact decimals: tokens times the rates that are claimed of it.

    cost = uncached prompt x input + cached prompt x cache_read + answer x output + thought x reasoning + images + call

A rate that nobody claims is unknown and so is the cost that needs it; it is never 0. Two rates have an upper bound when
they are unknown: cached tokens cost at most what uncached ones do, and thoughts are billed as output by every provider
that claims no price of its own for them, so that one is taken for known.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal

from small4.catalog.card import ModelCard
from small4.catalog.claims import Claim, settle
from small4.catalog.readings import lowest_amount
from small4.chat import Usage
from small4.errors import CatalogError

MILLION = Decimal(1_000_000)
_FIELDS = {"prompt": "input", "output": "output", "cached": "cache_read", "reasoning": "reasoning"}  # rate: claim


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """USD per million tokens; None is unknown."""

    prompt: Decimal | None = None
    output: Decimal | None = None
    cached: Decimal | None = None  # prompt tokens found in the provider's cache
    reasoning: Decimal | None = None  # None: billed as output


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """Rates of all tokens of a request whose prompt is longer than so many."""

    above_prompt_tokens: int = 0
    standard: Rates = Rates()
    batch: Rates = Rates()


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """All that a route bills; tiers by rising length, the first from 0."""

    tiers: tuple[Tier, ...] = (Tier(),)
    request_usd: Decimal | None = None  # for a call; None: nobody claims such a fee
    image_usd: Decimal | None = None  # for an image, beside its tokens

    def rates(self, prompt_tokens: int, *, is_batch: bool = False) -> Rates:
        """The rates of a request of that length."""
        tier = [
            tier for tier in self.tiers if tier.above_prompt_tokens == 0 or prompt_tokens > tier.above_prompt_tokens
        ][-1]
        return tier.batch if is_batch else tier.standard


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a bill."""

    what: str
    number: int  # of tokens, images or calls
    usd: Decimal | None


@dataclass(frozen=True, slots=True)
class Cost:
    """A bill: what is known of it, and what it cannot exceed."""

    lines: tuple[Line, ...]
    at_most_usd: Decimal | None  # None: no bound is known either

    @property
    def usd(self) -> Decimal | None:
        """The sum; None where a line is unknown."""
        amounts = [line.usd for line in self.lines if line.usd is not None]
        return sum(amounts, Decimal(0)) if len(amounts) == len(self.lines) else None

    @property
    def unknown(self) -> tuple[str, ...]:
        """The lines that nobody claims a price of."""
        return tuple(line.what for line in self.lines if line.usd is None)

    def times(self, number: int) -> "Cost":
        """The bill of so many requests like this one."""
        lines = tuple(
            Line(line.what, line.number * number, None if line.usd is None else line.usd * number)
            for line in self.lines
        )
        return Cost(lines, None if self.at_most_usd is None else self.at_most_usd * number)


UNKNOWN_PRICES = Prices()


def cost_of(usage: Usage, prices: Prices, *, num_images: int = 0, is_batch: bool = False) -> Cost:
    """The bill of one request."""
    rates = prices.rates(usage.prompt_tokens, is_batch=is_batch)
    lines = _lines(usage, prices, rates, num_images)
    if rates.cached is not None or usage.cached_tokens == 0:
        return Cost(lines, Cost(lines, None).usd)
    bounded = replace(rates, cached=rates.prompt)
    return Cost(lines, Cost(_lines(usage, prices, bounded, num_images), None).usd)


def _lines(usage: Usage, prices: Prices, rates: Rates, num_images: int) -> tuple[Line, ...]:
    uncached = usage.prompt_tokens - usage.cached_tokens
    answer = usage.completion_tokens - usage.reasoning_tokens
    if min(uncached, answer, usage.cached_tokens, usage.reasoning_tokens) < 0:
        raise CatalogError(
            "cached tokens are part of the prompt's, and reasoning tokens of the completion's; give fewer"
        )
    reasoning = rates.output if rates.reasoning is None else rates.reasoning
    lines = [
        _line("input", uncached, rates.prompt),
        _line("cached", usage.cached_tokens, rates.cached),
        _line("output", answer, rates.output),
        _line("reasoning", usage.reasoning_tokens, reasoning),
    ]
    if prices.request_usd is not None:
        lines.append(Line("call", 1, prices.request_usd))
    if prices.image_usd is not None:
        lines.append(Line("images", num_images, prices.image_usd * num_images))
    return tuple(lines)


def _line(what: str, tokens: int, rate: Decimal | None) -> Line:
    if tokens == 0:
        return Line(what, 0, Decimal(0))
    return Line(what, tokens, None if rate is None else rate * tokens / MILLION)


def prices_of(card: ModelCard, route: str, today: date) -> Prices:
    """The prices that the claims of one route come to on a day."""
    claims = [claim for claim in card.claims if claim.route == route and claim.field.kind == "price"]
    lengths = sorted({0, *(claim.above_prompt_tokens for claim in claims)})
    tiers: list[Tier] = []
    for length in lengths:
        of_length = [claim for claim in claims if claim.above_prompt_tokens == length]
        base = tiers[0] if tiers else Tier()
        tiers.append(
            Tier(
                above_prompt_tokens=length,
                standard=_rates(of_length, "price.", base.standard, today),
                batch=_rates(of_length, "price.batch.", base.batch, today),
            )
        )
    return Prices(
        tiers=tuple(tiers),
        request_usd=_amount(claims, "price.request", today),
        image_usd=_amount(claims, "price.image", today),
    )


def _rates(claims: list[Claim], prefix: str, base: Rates, today: date) -> Rates:
    """What is claimed of this length; what is not, is as for short prompts."""
    claimed = {name: _amount(claims, prefix + field, today) for name, field in _FIELDS.items()}
    return replace(base, **{name: rate for name, rate in claimed.items() if rate is not None})


def _amount(claims: Iterable[Claim], field: str, today: date) -> Decimal | None:
    fact = settle((claim for claim in claims if claim.field.name == field), today)
    return None if fact is None else lowest_amount(fact.value)
