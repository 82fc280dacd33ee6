"""What one transaction of the ledger does: entries in their order, against what was booked before.

Definition: entry by entry, each with statements of its own, sums taken over all rows. What follows reads what all
entries need at once, decides in memory in their order, and writes once; `tests/gateway/test_ledger.py` holds that
it does not matter how entries are divided into pages.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, bindparam, insert, select, tuple_, update
from sqlalchemy.dialects import postgresql, sqlite

from small4.errors import LedgerError, Small4Error, UnpricedError
from small4.gateway.budgets import Account, Budget, accounts_of, covering, first_day, next_day
from small4.gateway.ledger_entries import AttemptId, Begun, Entry, Release, Settlement
from small4.gateway.ledger_tables import attempts, spending
from small4.gateway.money import to_units

Row = dict[str, Any]

_CLOSING = (
    *("state", "first_token_us", "duration_us", "prompt_tokens", "cached_tokens", "completion_tokens"),
    *("reasoning_tokens", "is_estimate", "cost", "finish", "error_class"),
)
_CLOSE = (
    update(attempts)
    .where(attempts.c.id == bindparam("row_id"))
    .values({name: bindparam(f"new_{name}") for name in _CLOSING})
)
# Statements are made once: making one costs as much as running it.
_ATTEMPTS = select(attempts).where(
    tuple_(attempts.c.request_id, attempts.c.attempt).in_(bindparam("ids", expanding=True))
)
_TOTALS = select(spending).where(
    tuple_(spending.c.scope, spending.c.name).in_(bindparam("accounts", expanding=True)),
    spending.c.day >= bindparam("first"),
)
_MAKE = {
    name: statement.on_conflict_do_update(
        index_elements=[spending.c.scope, spending.c.name, spending.c.day],
        set_={"spent": spending.c.spent + statement.excluded.spent, "held": spending.c.held + statement.excluded.held},
    )
    for name, statement in (("sqlite", sqlite.insert(spending)), ("postgresql", postgresql.insert(spending)))
}
_ADD = (
    update(spending)
    .where(
        spending.c.scope == bindparam("of_scope"),
        spending.c.name == bindparam("of_name"),
        spending.c.day == bindparam("of_day"),
    )
    .values(spent=spending.c.spent + bindparam("more_spent"), held=spending.c.held + bindparam("more_held"))
)


def write_page(
    connection: Connection, entries: Sequence[Entry], budgets: Sequence[Budget], owner: int, *, is_retry: bool = False
) -> list[Small4Error | None]:
    """Book the entries within the transaction that is open; for each, why it was refused, or None.

    `is_retry`: a commit of these entries failed, and may have come through all the same.
    """
    page = _Page(connection, entries, budgets, owner, is_retry=is_retry)
    replies = [page.enter(entry) for entry in entries]
    page.write()
    return replies


def recover(connection: Connection, owners: Iterable[int]) -> int:
    """Settle what ended processes held as if all of it had been spent, marked as an estimate; returns how many."""
    held = connection.execute(
        select(attempts).where(attempts.c.state == "held", attempts.c.owner.in_(list(owners)))
    ).mappings()
    page = _Page(connection, (), (), owner=0)
    for row in held:
        page.close(
            dict(row),
            {"state": "recovered", "cost": row["held"], "is_estimate": True, "finish": "error", "error_class": "crash"},
        )
    return page.write()


class _Page:
    def __init__(
        self,
        connection: Connection,
        entries: Sequence[Entry],
        budgets: Sequence[Budget],
        owner: int,
        *,
        is_retry: bool = False,
    ) -> None:
        self._connection = connection
        self._budgets = budgets
        self._owner = owner
        self._is_retry = is_retry
        self._rows = self._read_rows([entry.id for entry in entries])
        self._totals = self._read_totals([entry for entry in entries if isinstance(entry, Begun)])
        self._new: list[Row] = []
        self._closed: dict[int, Row] = {}
        self._changes: dict[tuple[Account, int], list[int]] = {}  # spent and held, by account and day

    def enter(self, entry: Entry) -> Small4Error | None:
        match entry:
            case Begun():
                return self._begin(entry)
            case Settlement():
                return self._settle(entry)
            case Release():
                row = self._rows.get(entry.id)
                if row is not None:  # a reservation that was refused has none
                    self.close(row, _released(entry))
                return None

    def write(self) -> int:
        """Write what was entered; returns the number of rows that were closed."""
        if self._new:
            self._connection.execute(insert(attempts), self._new)
        if self._closed:
            changes = [
                {"row_id": row_id, **{f"new_{name}": row[name] for name in _CLOSING}}
                for row_id, row in self._closed.items()
            ]
            self._connection.execute(_CLOSE, changes)
        self._write_spending()
        return len(self._closed)

    def _begin(self, entry: Begun) -> Small4Error | None:
        row = self._rows.get(entry.id)
        if row is not None:
            is_own = self._is_retry and (row["owner"], row["began_us"]) == (self._owner, entry.began_us)
            return None if is_own else LedgerError(f"attempt {entry.id} is in the ledger already")
        row = _new_row(entry, self._owner)
        refusal = self._refusal(entry, row["held"])
        if refusal is None:
            self._rows[entry.id] = row
            self._new.append(row)
            self._change(row, spent=0, held=row["held"] or 0)
        return refusal

    def _refusal(self, entry: Begun, held: int | None) -> Small4Error | None:
        reservation = entry.reservation
        for budget, account in covering(self._budgets, reservation.key, reservation.app):
            if held is None:
                return UnpricedError(
                    f"what {reservation.route} costs is not known, and {budget.of(account)} must be kept; "
                    "give the route a price, or take one that has one"
                )
            left = to_units(budget.dollars) - self._used(account, budget, entry.day)
            if held > left:
                return budget.refusal(account, entry.day, left, held)
        return None

    def _used(self, account: Account, budget: Budget, day: int) -> int:
        first, end = first_day(budget.period, day), next_day(budget.period, day)
        return sum(sum(used) for other, used in self._totals.get(account, {}).items() if first <= other < end)

    def _settle(self, entry: Settlement) -> Small4Error | None:
        row = self._rows.get(entry.id)
        if row is None:
            return LedgerError(f"attempt {entry.id} was never reserved")
        self.close(row, _settled(entry))
        return None

    def close(self, row: Row, closing: Row) -> None:
        """End an attempt. One that was ended before stays as it is, except where only a crash was assumed."""
        if row["state"] not in ("held", "recovered"):
            return
        still_held = row["held"] or 0 if row["state"] == "held" else 0
        before = 0 if row["state"] == "held" else _spent(row)
        row.update(closing)
        self._change(row, spent=_spent(row) - before, held=-still_held)
        if "id" in row:
            self._closed[row["id"]] = row

    def _change(self, row: Row, spent: int, held: int) -> None:
        for account in accounts_of(row["key"], row["app"]):
            change = self._changes.setdefault((account, row["day"]), [0, 0])
            total = self._totals.setdefault(account, {}).setdefault(row["day"], [0, 0])
            for sums in (change, total):
                sums[0] += spent
                sums[1] += held

    def _read_rows(self, ids: list[AttemptId]) -> dict[AttemptId, Row]:
        if not ids:
            return {}
        found = self._connection.execute(_ATTEMPTS, {"ids": ids}).mappings()
        return {(row["request_id"], row["attempt"]): dict(row) for row in found}

    def _read_totals(self, begun: list[Begun]) -> dict[Account, dict[int, list[int]]]:
        """Spent and held of every account that a budget limits, by day, over the periods that matter."""
        totals: dict[Account, dict[int, list[int]]] = {}
        first = None
        for entry in begun:
            for budget, account in covering(self._budgets, entry.reservation.key, entry.reservation.app):
                totals[account] = {}
                first = min(first_day(budget.period, entry.day), entry.day if first is None else first)
        if first is not None:
            for row in self._connection.execute(_TOTALS, {"accounts": list(totals), "first": first}):
                totals[row.scope, row.name][row.day] = [row.spent, row.held]
        return totals

    def _write_spending(self) -> None:
        """Add the changes; sums that may not be there yet are made by theirs, which are never below 0."""
        fresh = {(account, row["day"]) for row in self._new for account in accounts_of(row["key"], row["app"])}
        made, added = [], []
        for (account, day), (spent, held) in sorted(self._changes.items()):
            if (account, day) in fresh and spent >= 0 and held >= 0:
                made.append({"scope": account[0], "name": account[1], "day": day, "spent": spent, "held": held})
                continue
            if (account, day) in fresh:
                made.append({"scope": account[0], "name": account[1], "day": day, "spent": 0, "held": 0})
            added.append(
                {"of_scope": account[0], "of_name": account[1], "of_day": day, "more_spent": spent, "more_held": held}
            )
        if made:
            self._connection.execute(_MAKE[self._connection.dialect.name], made)
        if added:
            self._connection.execute(_ADD, added)


def _spent(row: Row) -> int:
    """What an attempt that ended counts for: what was held, where its cost is unknown."""
    cost: int | None = row["cost"]
    return row["held"] or 0 if cost is None else cost


def _new_row(entry: Begun, owner: int) -> Row:
    reservation = entry.reservation
    return {
        **dict.fromkeys(_CLOSING),
        "is_estimate": False,
        "request_id": reservation.request_id,
        "attempt": reservation.attempt,
        "owner": owner,
        "state": "held",
        "key": reservation.key,
        "app": reservation.app,
        "route": reservation.route,
        "dialect": reservation.dialect,
        "model": reservation.model,
        "day": entry.day,
        "began_us": entry.began_us,
        "held": None if reservation.estimate is None else to_units(reservation.estimate),
    }


def _settled(entry: Settlement) -> Row:
    first = entry.first_token_seconds
    return {
        "state": "settled",
        "first_token_us": None if first is None else round(first * 1e6),
        "duration_us": round(entry.duration_seconds * 1e6),
        "prompt_tokens": entry.usage.prompt_tokens,
        "cached_tokens": entry.usage.cached_tokens,
        "completion_tokens": entry.usage.completion_tokens,
        "reasoning_tokens": entry.usage.reasoning_tokens,
        "is_estimate": entry.is_estimate,
        "cost": None if entry.cost is None else to_units(entry.cost),
        "finish": entry.finish,
        "error_class": entry.error_class,
    }


def _released(entry: Release) -> Row:
    return {"state": "released", "is_estimate": False, "cost": 0, "finish": "error", "error_class": entry.error_class}
