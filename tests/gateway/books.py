"""Shorthand for the tests of the ledger: small reservations and settlements, and what lies in its tables."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from sqlalchemy import Connection, func, select

from small4.chat import Usage
from small4.gateway.ledger_database import engine_for_reading, parse_url
from small4.gateway.ledger_entries import Reservation, Settlement
from small4.gateway.ledger_tables import attempts, spending


def reservation(number: int = 0, *, dollars: str | None = "0.5", key: str = "alice", app: str = "") -> Reservation:
    estimate = None if dollars is None else Decimal(dollars)
    return Reservation(
        request_id=f"req_{number}", route="mistral/small-4", model="small-4", estimate=estimate, key=key, app=app
    )


def settlement(number: int = 0, *, dollars: str | None = "0.1") -> Settlement:
    cost = None if dollars is None else Decimal(dollars)
    usage = Usage(prompt_tokens=10, completion_tokens=4, reasoning_tokens=1, cached_tokens=3)
    return Settlement(
        request_id=f"req_{number}",
        usage=usage,
        cost=cost,
        finish="stop",
        first_token_seconds=0.25,
        duration_seconds=1.5,
    )


def rows_of(url: str) -> Sequence[Any]:
    """All attempts, in the order in which they were reserved, read by a connection of its own."""
    engine = engine_for_reading(parse_url(url))
    with engine.connect() as connection:
        rows = connection.execute(select(attempts).order_by(attempts.c.id)).all()
    engine.dispose()
    return rows


def sums_of(connection: Connection) -> dict[tuple[str, str, int], tuple[int, int]]:
    """What `spending` says, where it says more than nothing."""
    rows = connection.execute(select(spending)).all()
    return {(row.scope, row.name, row.day): (row.spent, row.held) for row in rows if row.spent or row.held}


def sums_by_rows(connection: Connection) -> dict[tuple[str, str, int], tuple[int, int]]:
    """The same by its definition: added up over all attempts."""
    sums: dict[tuple[str, str, int], tuple[int, int]] = {}
    for row in connection.execute(select(attempts)):
        held = row.held or 0 if row.state == "held" else 0
        for scope, name in (("key", row.key), ("app", row.app), ("all", "")):
            before = sums.get((scope, name, row.day), (0, 0))
            spent = row.cost if row.cost is not None or row.state == "held" else row.held
            sums[scope, name, row.day] = (before[0] + (spent or 0), before[1] + held)
    return {account: both for account, both in sums.items() if any(both)}


def check_books(url: str) -> tuple[int, int]:
    """Spent and held of everybody, after a check that the sums are those of the rows."""
    engine = engine_for_reading(parse_url(url))
    with engine.connect() as connection:
        assert sums_of(connection) == sums_by_rows(connection)
        total = connection.execute(
            select(func.coalesce(func.sum(spending.c.spent), 0), func.coalesce(func.sum(spending.c.held), 0)).where(
                spending.c.scope == "all"
            )
        ).one()
    engine.dispose()
    return int(total[0]), int(total[1])
