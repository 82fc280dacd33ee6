"""What the ledger says was used: summed by key, app, route or day, or attempt by attempt.

Reads beside the process that writes. `Filter.key` stands in the statement itself, so that one caller's view cannot
hold another's rows.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Literal, get_args

from sqlalchemy import ColumnElement, Connection, Row, Select, case, func, select
from sqlalchemy.exc import DBAPIError

from small4.errors import ConfigError, LedgerError
from small4.gateway.ledger_database import engine_for_reading, parse_url
from small4.gateway.ledger_tables import attempts
from small4.gateway.money import to_dollars

Grouping = Literal["key", "app", "route", "day"]
GROUPINGS: tuple[Grouping, ...] = get_args(Grouping)
ROWS_AT_ONCE = 1000  # of an export
SUMMED_AT_ONCE = 20_000  # takes some hundredths of a second, for which the writer may have to wait
DAY_US = 86_400_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which attempts are meant; None leaves nothing out."""

    since: datetime | None = None
    until: datetime | None = None  # attempts that began at this time are not meant any more
    key: str | None = None
    app: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageRow:
    """The sum of the attempts of one key, app, route or day."""

    name: str
    num_attempts: int
    num_failed: int  # ended with an error
    num_open: int  # still held
    num_estimated: int  # whose tokens or price were not told
    num_unpriced: int  # that ended and whose cost is unknown; `cost` is without them
    prompt_tokens: int
    cached_tokens: int  # part of prompt_tokens
    completion_tokens: int
    reasoning_tokens: int  # part of completion_tokens
    cost: Decimal  # dollars


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRow:
    """One attempt, as it is exported; times are seconds, money is in dollars, None is unknown or not yet known."""

    request_id: str
    attempt: int
    state: str
    key: str
    app: str
    route: str
    dialect: str
    model: str
    began: datetime
    first_token_seconds: float | None
    duration_seconds: float | None
    prompt_tokens: int | None
    cached_tokens: int | None
    completion_tokens: int | None
    reasoning_tokens: int | None
    is_estimate: bool
    held: Decimal | None
    cost: Decimal | None
    finish: str | None
    error_class: str | None


def read_usage(url: str, by: Grouping, wanted: Filter) -> list[UsageRow]:
    """Sums by key, app or route, the most expensive first; by day, in order."""
    if by not in GROUPINGS:
        raise ConfigError(f"usage cannot be shown by {by!r}; there are {', '.join(GROUPINGS)}")
    totals: dict[Any, Counter[str]] = {}
    for block in sums_of_blocks(url, by, wanted):
        for row in block:
            sums = {name: int(value) for name, value in row._mapping.items() if name != "name"}
            totals.setdefault(row.name, Counter()).update(sums)
    rows = [_usage_row(name, totals[name], by) for name in sorted(totals)]
    return rows if by == "day" else sorted(rows, key=lambda row: row.cost, reverse=True)


def sums_of_blocks(url: str, by: Grouping, wanted: Filter) -> Iterator[Sequence[Row[Any]]]:
    """The sums of some attempts after another, since one statement over all would keep the writer out until its end."""
    group = attempts.c[by]
    sums = select(group.label("name"), *_SUMS).where(*_conditions(wanted)).group_by(group)
    with _reading(url) as connection:
        for block in _blocks(connection, wanted):
            with connection.begin():
                rows = connection.execute(sums.where(*block)).all()
            yield rows


def _blocks(connection: Connection, wanted: Filter) -> Iterator[tuple[ColumnElement[bool], ...]]:
    """Conditions that divide the attempts from the filter's first day on, by day and row."""
    day, row_id = attempts.c.day, attempts.c.id
    previous = -1 if wanted.since is None else _microseconds(wanted.since) // DAY_US - 1
    while (today := _only(connection, select(func.min(day)).where(day > previous))) is not None:
        of_day = day == today
        last: int | None = 0
        while last is not None:
            rest = select(row_id).where(of_day, row_id > last).order_by(row_id)
            end = _only(connection, rest.offset(SUMMED_AT_ONCE - 1).limit(1))
            yield (of_day, row_id > last) if end is None else (of_day, row_id > last, row_id <= end)
            last = end
        previous = today


def _only(connection: Connection, statement: Select[Any]) -> int | None:
    with connection.begin():
        found: int | None = connection.execute(statement).scalar()
    return found


def read_attempts(url: str, wanted: Filter) -> Iterator[AttemptRow]:
    """Every attempt in the order in which they were reserved, without holding them all in memory.

    Reads some at a time, and lets the writer pass in between.
    """
    conditions, last = _conditions(wanted), 0
    with _reading(url) as connection:
        while True:
            some = select(attempts).where(*conditions, attempts.c.id > last).order_by(attempts.c.id).limit(ROWS_AT_ONCE)
            with connection.begin():
                rows = connection.execute(some).all()
            yield from map(_attempt_row, rows)
            if len(rows) < ROWS_AT_ONCE:
                return
            last = rows[-1].id


_IS_CLOSED = attempts.c.state != "held"
_SUMS = (
    func.count().label("num_attempts"),
    func.count(case((attempts.c.finish == "error", 1))).label("num_failed"),
    func.count(case((attempts.c.state == "held", 1))).label("num_open"),
    func.count(case((attempts.c.is_estimate, 1))).label("num_estimated"),
    func.count(case((_IS_CLOSED & attempts.c.cost.is_(None), 1))).label("num_unpriced"),
    *(
        func.coalesce(func.sum(attempts.c[name]), 0).label(name)
        for name in ("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens", "cost")
    ),
)


def _conditions(wanted: Filter) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if wanted.since is not None:
        began = _microseconds(wanted.since)
        # The day has an index, the time has none.
        conditions += [attempts.c.day >= began // DAY_US, attempts.c.began_us >= began]
    if wanted.until is not None:
        conditions.append(attempts.c.began_us < _microseconds(wanted.until))
    if wanted.key is not None:
        conditions.append(attempts.c.key == wanted.key)
    if wanted.app is not None:
        conditions.append(attempts.c.app == wanted.app)
    return conditions


def _usage_row(group: Any, sums: Mapping[str, int], by: Grouping) -> UsageRow:
    facts = {name: number for name, number in sums.items() if name != "cost"}
    name = f"{_EPOCH + timedelta(days=group):%Y-%m-%d}" if by == "day" else str(group)
    return UsageRow(name=name, cost=to_dollars(sums["cost"]), **facts)


def _attempt_row(row: Row[Any]) -> AttemptRow:
    plain = {name: row._mapping[name] for name in _PLAIN}
    return AttemptRow(
        began=_EPOCH + timedelta(microseconds=row.began_us),
        first_token_seconds=None if row.first_token_us is None else row.first_token_us / 1e6,
        duration_seconds=None if row.duration_us is None else row.duration_us / 1e6,
        held=None if row.held is None else to_dollars(row.held),
        cost=None if row.cost is None else to_dollars(row.cost),
        **plain,
    )


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_PLAIN = (
    *("request_id", "attempt", "state", "key", "app", "route", "dialect", "model", "is_estimate", "finish"),
    *("error_class", "prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens"),
)


def _microseconds(time: datetime) -> int:
    return (time - _EPOCH) // timedelta(microseconds=1)


@contextmanager
def _reading(url: str) -> Iterator[Connection]:
    engine = engine_for_reading(parse_url(url))
    try:
        with engine.connect() as connection:
            yield connection
    except DBAPIError as error:
        raise LedgerError(f"the ledger cannot be read ({error.orig}); is its address right?") from error
    finally:
        engine.dispose()
