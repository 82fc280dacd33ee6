"""What an amount that a page states can mean: "262K", "6.5B" and "$0.19" are each the rounding of something.

Two amounts agree if the more exact one, rounded half up to the steps of the coarser one, gives the coarser one. K in
a number of tokens is 1000 to one writer and 1024 to the next, so such an amount has both readings.
"""

import re
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal

from small4.errors import CatalogError

_AMOUNT = re.compile(r"(\d+(?:\.\d+)?)([KMB]?)\Z")
_SCALES = {"": (1,), "K": (1000, 1024), "M": (1_000_000, 1_048_576), "B": (1_000_000_000,)}
_CENT = Decimal("0.01")


@dataclass(frozen=True, slots=True)
class Reading:
    """An amount, and the step that it was rounded to."""

    amount: Decimal
    step: Decimal


def amounts_agree(left: object, right: object, *, has_cents: bool = False) -> bool:
    """Whether two amounts can be the same one; with `has_cents`, 0.2 means 0.20 and not anything from 0.15 to 0.25."""
    return any(_agree(a, b) for a in readings(left, has_cents) for b in readings(right, has_cents))


def lowest_amount(value: object) -> Decimal:
    """The smallest amount that it can mean: what a limit has to be taken for."""
    return min(reading.amount for reading in readings(value))


def finest_step(value: object, has_cents: bool = False) -> Decimal:
    """How exact an amount is: a smaller step is more exact."""
    return min(reading.step for reading in readings(value, has_cents))


def readings(value: object, has_cents: bool = False) -> tuple[Reading, ...]:
    """All that an amount can mean."""
    found = _AMOUNT.match(str(value))
    if found is None:
        raise CatalogError(f"{value!r} is no amount; write it like 262144, 256K, 6.5B or 0.15")
    number = Decimal(found[1])
    step = Decimal(1).scaleb(int(number.as_tuple().exponent))
    if has_cents:
        step = min(step, _CENT)
    return tuple(Reading(number * scale, step * scale) for scale in _SCALES[found[2]])


def _agree(left: Reading, right: Reading) -> bool:
    fine, coarse = sorted((left, right), key=lambda reading: reading.step)
    steps = (fine.amount / coarse.step).to_integral_value(ROUND_HALF_UP)
    return bool(steps * coarse.step == coarse.amount)
