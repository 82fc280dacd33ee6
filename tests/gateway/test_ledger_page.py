"""However entries are divided into pages, the books are those of the plain ledger that takes them one by one."""

from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from small4.errors import BudgetError, LedgerError
from small4.gateway.budgets import Budget, covering, first_day, next_day
from small4.gateway.ledger_database import Database
from small4.gateway.ledger_entries import Begun, Entry, Release, Settlement
from small4.gateway.ledger_page import write_page
from small4.gateway.ledger_tables import attempts
from small4.gateway.money import to_units
from tests.gateway.books import check_books, reservation, rows_of, settlement, sums_by_rows, sums_of

BUDGETS = (
    Budget(scope="key", dollars=Decimal("1.0")),
    Budget(scope="app", dollars=Decimal("1.4"), period="month"),
    Budget(scope="all", dollars=Decimal("2.1")),
    Budget(scope="key", dollars=Decimal("0.3"), name="bob"),
)
DAY_US = 86_400 * 1_000_000
ALL_ROWS = select(attempts)


@dataclass
class PlainLedger:
    """The definition: a list of attempts, and sums over all of it whenever something is asked."""

    rows: list[dict] = field(default_factory=list)

    def enter(self, entry: Entry) -> type | None:
        row = next((row for row in self.rows if row["id"] == entry.id), None)
        match entry:
            case Begun():
                if row is not None:
                    return LedgerError
                if not self.has_room(entry):
                    return BudgetError
                booked = entry.reservation
                self.rows.append(
                    {"id": entry.id, "day": entry.day, "key": booked.key, "app": booked.app, "state": "held"}
                    | {"held": booked.estimate, "cost": Decimal(0)}
                )
            case Settlement():
                if row is None:
                    return LedgerError
                if row["state"] == "held":
                    row |= {"state": "settled", "cost": entry.cost}
            case Release():
                if row is not None and row["state"] == "held":
                    row["state"] = "released"
        return None

    def has_room(self, entry: Begun) -> bool:
        for budget, account in covering(BUDGETS, entry.reservation.key, entry.reservation.app):
            days = range(first_day(budget.period, entry.day), next_day(budget.period, entry.day))
            used = sum(
                row["held"] if row["state"] == "held" else row["cost"]
                for row in self.rows
                if row["day"] in days and account in (("key", row["key"]), ("app", row["app"]), ("all", ""))
            )
            if used + entry.reservation.estimate > budget.dollars:
                return False
        return True


DOLLARS = st.sampled_from(["0", "0.1", "0.25", "0.300000000001", "0.5", "0.999999999999"])
NUMBERS = st.integers(0, 11)
BEGUN = st.builds(
    lambda number, dollars, key, app, day: Begun(
        reservation(number, dollars=dollars, key=key, app=app), (20_480 + day) * DAY_US + number
    ),
    NUMBERS, DOLLARS, st.sampled_from(["alice", "bob"]), st.sampled_from(["", "notes"]), st.integers(0, 2),
)  # fmt: skip
SETTLED = st.builds(lambda number, dollars: settlement(number, dollars=dollars), NUMBERS, DOLLARS)
RELEASED = st.builds(lambda number: Release(f"req_{number}"), NUMBERS)
PAGES = st.lists(st.lists(BEGUN | SETTLED | RELEASED, min_size=1, max_size=12), max_size=5)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pages=PAGES)
def test_pages_are_booked_as_their_entries_would_be_one_by_one(database: Database, pages: list[list[Entry]]) -> None:
    compare_with_plain(database, pages)


@pytest.mark.slow
@settings(max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pages=PAGES)
def test_many_more_pages(database: Database, pages: list[list[Entry]]) -> None:
    compare_with_plain(database, pages)


def compare_with_plain(database: Database, pages: list[list[Entry]]) -> None:
    plain = PlainLedger()

    def run(connection):
        for page in pages:
            replies = write_page(connection, page, BUDGETS, owner=7)
            assert [None if reply is None else type(reply) for reply in replies] == [plain.enter(it) for it in page]
        assert sums_of(connection) == sums_by_rows(connection)
        booked = {
            (row.request_id, row.attempt): (row.state, row.held, row.cost) for row in connection.execute(ALL_ROWS)
        }
        for row in plain.rows:
            cost = None if row["state"] == "held" else to_units(row["cost"])
            assert booked.pop(row["id"]) == (row["state"], to_units(row["held"]), cost)
        assert not booked
        raise Undone

    with pytest.raises(Undone):
        database.transact(run)


class Undone(Exception):
    """Rolls an example back, so that the next begins with an empty ledger."""


@pytest.fixture
def database(tmp_path: Path):
    database = Database(str(tmp_path / "ledger.db"))
    yield database
    database.close()


def test_commit_that_came_through_unheard_is_not_booked_again(tmp_path: Path) -> None:
    url = str(tmp_path / "ledger.db")
    database = Database(url)
    page: list[Entry] = [Begun(reservation(0), DAY_US), Begun(reservation(1), DAY_US), settlement(1)]
    for is_retry in (False, True, True):
        replies = database.transact(
            lambda connection, is_retry=is_retry: write_page(connection, page, (), database.owner, is_retry=is_retry)
        )
        assert replies == [None, None, None]
    database.close()
    assert len(rows_of(url)) == 2
    assert check_books(url) == (100_000_000_000, 500_000_000_000)
