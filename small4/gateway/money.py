"""Money as the ledger stores it: whole units of a millionth of a millionth dollar, so that sums are exact."""

from decimal import ROUND_CEILING, Context, Decimal

from small4.errors import LedgerError

UNITS_PER_DOLLAR = 10**12
MAX_DOLLARS = 1_000_000  # in one amount; nine times as much still fits the database's integers

_EXACT = Context(prec=60)


def to_units(dollars: Decimal) -> int:
    """Units for an amount; what is finer than a unit is rounded up, so that nothing is ever counted too low."""
    if not dollars.is_finite() or not 0 <= dollars <= MAX_DOLLARS:
        raise LedgerError(f"an amount of {dollars} dollars cannot be booked; it must lie between 0 and {MAX_DOLLARS}")
    return int(_EXACT.multiply(dollars, UNITS_PER_DOLLAR).to_integral_value(ROUND_CEILING))


def to_dollars(units: int) -> Decimal:
    """The amount that so many units are, exactly."""
    return _EXACT.divide(Decimal(units), UNITS_PER_DOLLAR)
