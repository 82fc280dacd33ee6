"""Numbers as people write them on a command line: 2M, 400k, 50%, 0.30."""

import re
from decimal import Decimal

from small4.errors import ConfigError

_COUNT = re.compile(r"([\d_]+(?:\.\d+)?)([kKmM]?)\Z")
_SCALES = {"": 1, "k": 1_000, "m": 1_000_000}


def count_of(text: str | None, option: str) -> int | None:
    """2M -> 2,000,000; k and M are thousands and millions."""
    if text is None:
        return None
    found = _COUNT.match(text)
    number = Decimal(found[1].replace("_", "") or 0) * _SCALES[found[2].lower()] if found else Decimal("0.5")
    if number != int(number):
        raise ConfigError(f"{option} is {text!r}; write a whole number like 1200, 400k or 2M")
    return int(number)


def share_of(text: str | None, option: str) -> Decimal | None:
    """50% -> 0.5; 0.5 is the same."""
    if text is None:
        return None
    number = decimal_of(text.removesuffix("%"), option) or Decimal(0)
    share = number / 100 if text.endswith("%") else number
    if share > 1:
        raise ConfigError(f"{option} is {text!r}; write a share from 0% to 100%")
    return share


def decimal_of(text: str | None, option: str) -> Decimal | None:
    """A number that is not below 0, exactly."""
    if text is None:
        return None
    if not re.fullmatch(r"\d{1,15}(\.\d{1,15})?|\.\d{1,15}", text):
        raise ConfigError(f"{option} is {text!r}; write a number like 0.30")
    return Decimal(text)
