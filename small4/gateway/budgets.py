"""Budgets: how much a key, an app, or all together may spend in a day or a month, by UTC.

A budget is kept if, for every request that begins, what was spent and what is held for open requests and what this one
may cost at most are together no more than its limit. A request counts for the day on which it began.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Literal

from small4.errors import BudgetError, ConfigError
from small4.gateway.money import to_dollars, to_units

Scope = Literal["key", "app", "all"]
Period = Literal["day", "month"]
Account = tuple[Scope, str]  # whose spending is added up; everybody's together has no name

SECONDS_PER_DAY = 86_400
_FIRST_DAY = date(1970, 1, 1).toordinal()


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """A limit in dollars."""

    scope: Scope
    dollars: Decimal
    period: Period = "day"
    name: str | None = None  # id of the key or name of the app; None: each of them has this much for itself

    def __post_init__(self) -> None:
        to_units(self.dollars)
        if self.scope == "all" and self.name is not None:
            raise ConfigError(f"a budget for all has no name, and this one is {self.name!r}; leave the name out")

    def of(self, account: Account) -> str:
        """What it is called when it applies to this account."""
        owner = "everybody" if self.scope == "all" else f"{account[0]} {account[1]!r}"
        return f"${self.dollars.normalize():f} a {self.period} for {owner}"

    def covers(self, account: Account) -> bool:
        """Whether this account's spending is what it limits."""
        is_nobody = account == ("app", "")  # asked without an app; whoever needs no key shares one account
        return self.scope == account[0] and self.name in (None, account[1]) and not is_nobody

    def refusal(self, account: Account, day: int, left_units: int, wanted_units: int) -> BudgetError:
        """Why a request cannot begin on that day."""
        renews_at = next_day(self.period, day) * SECONDS_PER_DAY
        left, wanted = to_dollars(max(0, left_units)), to_dollars(wanted_units)
        return BudgetError(
            f"the budget of {self.of(account)} has ${left:f} left, and this request may cost ${wanted:f}; "
            f"it renews at {datetime.fromtimestamp(renews_at, UTC):%Y-%m-%dT%H:%MZ}. "
            f"Ask for fewer tokens or a cheaper route, or have the budget raised",
            budget=self.of(account),
            renews_at=renews_at,
            retry_after_seconds=max(0.0, renews_at - time.time()),
        )


def accounts_of(key: str, app: str) -> tuple[Account, Account, Account]:
    """All accounts that a request of this key and app counts for."""
    return ("key", key), ("app", app), ("all", "")


def covering(budgets: Iterable[Budget], key: str, app: str) -> list[tuple[Budget, Account]]:
    """The budgets that a request of this key and app has to keep, each with the account that it limits."""
    accounts = accounts_of(key, app)
    return [(budget, account) for budget in budgets for account in accounts if budget.covers(account)]


def first_day(period: Period, day: int) -> int:
    """First day of the period that `day` lies in; days are counted from 1970-01-01, UTC."""
    return day if period == "day" else _number(_date(day).replace(day=1))


def next_day(period: Period, day: int) -> int:
    """First day of the period after the one that `day` lies in."""
    if period == "day":
        return day + 1
    first = _date(day).replace(day=1)
    return _number(first.replace(year=first.year + first.month // 12, month=first.month % 12 + 1))


def _date(day: int) -> date:
    return date.fromordinal(day + _FIRST_DAY)


def _number(day: date) -> int:
    return day.toordinal() - _FIRST_DAY
