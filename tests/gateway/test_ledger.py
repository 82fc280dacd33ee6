"""The ledger as its callers see it: what is committed, what is refused, and what is left after a crash."""

import asyncio
import gc
import resource
import sqlite3
import time
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from small4.errors import BudgetError, BusyError, LedgerError, LedgerUnavailableError, UnpricedError
from small4.gateway.budgets import Budget
from small4.gateway.ledger import Ledger, LedgerConfig
from small4.gateway.ledger_database import Database
from small4.gateway.ledger_writer import WriterConfig
from small4.wire.problem import problem_of
from tests.gateway.books import check_books, reservation, rows_of, settlement

NOON = 1_800_014_400.0  # 2027-01-15T12:00Z
A_DOLLAR = Budget(scope="key", dollars=Decimal(1))


def open_ledger(url: str, *budgets: Budget, now: float = NOON) -> Ledger:
    return Ledger(LedgerConfig(url=url, budgets=budgets), clock=lambda: now)


def test_reservation_is_on_the_disk_before_it_is_acknowledged(url: str) -> None:
    with open_ledger(url) as ledger:
        asyncio.run(ledger.reserve(reservation()))
        (row,) = rows_of(url)
        assert (row.state, row.held, row.day, row.cost) == ("held", 500_000_000_000, 20833, None)


def test_settled_attempt_keeps_every_digit(url: str) -> None:
    async def run() -> None:
        await ledger.reserve(reservation())
        await ledger.settle(settlement(dollars="0.000000150015"))

    with open_ledger(url) as ledger:
        asyncio.run(run())
        (row,) = rows_of(url)
    assert (row.state, row.cost, row.finish) == ("settled", 150_015, "stop")
    assert (row.prompt_tokens, row.cached_tokens, row.completion_tokens, row.reasoning_tokens) == (10, 3, 4, 1)
    assert (row.first_token_us, row.duration_us, row.is_estimate) == (250_000, 1_500_000, False)
    assert check_books(url) == (150_015, 0)


def test_released_attempt_leaves_its_row_and_no_hold(url: str) -> None:
    async def run() -> None:
        await ledger.reserve(reservation())
        await ledger.release("req_0", error_class="connect")

    with open_ledger(url) as ledger:
        asyncio.run(run())
        (row,) = rows_of(url)
    assert (row.state, row.cost, row.error_class) == ("released", 0, "connect")
    assert check_books(url) == (0, 0)


def test_budget_that_would_be_passed_is_named_with_its_renewal(url: str) -> None:
    with open_ledger(url, replace(A_DOLLAR, name="alice")) as ledger:
        asyncio.run(ledger.reserve(reservation(0, dollars="0.7")))
        with pytest.raises(BudgetError) as refused:
            asyncio.run(ledger.reserve(reservation(1, dollars="0.300000000001")))
        asyncio.run(ledger.reserve(reservation(2, dollars="0.3")))
    assert str(refused.value).startswith(
        "the budget of $1 a day for key 'alice' has $0.3 left, and this request may cost $0.300000000001; "
        "it renews at 2027-01-16T00:00Z"
    )
    assert refused.value.renews_at == 1_800_057_600
    problem = problem_of(refused.value)
    assert (problem.status, problem.code) == (429, "insufficient_quota")
    assert len(rows_of(url)) == 2  # the refused one left nothing


def test_day_of_a_budget_begins_anew_at_midnight_and_a_month_does_not(tmp_path: Path) -> None:
    url = str(tmp_path / "ledger.db")
    monthly = Budget(scope="app", dollars=Decimal("1.5"), period="month")
    with open_ledger(url, A_DOLLAR, monthly) as ledger:
        asyncio.run(ledger.reserve(reservation(0, dollars="1", app="notes")))
        with pytest.raises(BudgetError, match="a day for key"):
            asyncio.run(ledger.reserve(reservation(1, dollars="0.1", app="notes")))
        asyncio.run(ledger.settle(settlement(0, dollars="1")))
    with open_ledger(url, A_DOLLAR, monthly, now=NOON + 86_400) as ledger:
        with pytest.raises(BudgetError, match=r"a month for app .* renews at 2027-02-01T00:00Z"):
            asyncio.run(ledger.reserve(reservation(2, dollars="0.6", app="notes")))
        asyncio.run(ledger.reserve(reservation(3, dollars="0.5", app="notes")))


def test_budget_set_later_counts_what_was_spent_before(tmp_path: Path) -> None:
    with open_ledger(str(tmp_path / "ledger.db")) as ledger:
        asyncio.run(ledger.reserve(reservation(0, dollars="1")))
        ledger.set_budgets([A_DOLLAR])
        with pytest.raises(BudgetError):
            asyncio.run(ledger.reserve(reservation(1, dollars="0.000000000001")))


def test_each_key_has_a_nameless_budget_for_itself(tmp_path: Path) -> None:
    with open_ledger(str(tmp_path / "ledger.db"), A_DOLLAR) as ledger:
        asyncio.run(ledger.reserve(reservation(0, dollars="1", key="alice")))
        asyncio.run(ledger.reserve(reservation(1, dollars="1", key="bob")))


def test_unknown_price_is_refused_where_a_budget_applies_and_only_there(tmp_path: Path) -> None:
    with open_ledger(str(tmp_path / "ledger.db"), replace(A_DOLLAR, name="alice")) as ledger:
        with pytest.raises(UnpricedError, match="mistral/small-4"):
            asyncio.run(ledger.reserve(reservation(0, dollars=None, key="alice")))
        asyncio.run(ledger.reserve(reservation(1, dollars=None, key="bob")))
        asyncio.run(ledger.settle(settlement(1, dollars=None)))
    assert [row.cost for row in rows_of(str(tmp_path / "ledger.db"))] == [None]


def test_of_many_requests_for_the_last_unit_one_begins(url: str) -> None:
    async def race() -> int:
        answers = await asyncio.gather(
            *(ledger.reserve(reservation(number, dollars="1")) for number in range(64)), return_exceptions=True
        )
        assert all(answer is None or isinstance(answer, BudgetError) for answer in answers)
        return answers.count(None)

    with open_ledger(url, A_DOLLAR) as ledger:
        assert asyncio.run(race()) == 1
    assert len(rows_of(url)) == 1


def test_requests_that_come_together_share_commits(tmp_path: Path) -> None:
    async def run() -> None:
        await asyncio.gather(*(ledger.reserve(reservation(number)) for number in range(100)))

    with open_ledger(str(tmp_path / "ledger.db")) as ledger:
        asyncio.run(run())
        assert ledger.num_commits < 10


def test_cancelled_reservation_holds_nothing(tmp_path: Path) -> None:
    url = str(tmp_path / "ledger.db")

    async def run() -> None:
        tasks = [asyncio.create_task(ledger.reserve(reservation(number))) for number in range(20)]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    with open_ledger(url) as ledger:
        asyncio.run(run())
    assert [row.state for row in rows_of(url)].count("held") == 10
    assert check_books(url) == (0, 5_000_000_000_000)


def test_settling_twice_counts_once_and_settling_the_unknown_is_refused(url: str) -> None:
    with open_ledger(url) as ledger:
        asyncio.run(ledger.reserve(reservation()))
        for _ in range(2):
            asyncio.run(ledger.settle(settlement()))
        asyncio.run(ledger.release("req_0"))
        with pytest.raises(LedgerError, match="never reserved"):
            asyncio.run(ledger.settle(settlement(1)))
        with pytest.raises(LedgerError, match="already"):
            asyncio.run(ledger.reserve(reservation()))
    assert check_books(url) == (100_000_000_000, 0)


def test_holds_of_a_process_that_ended_are_settled_by_their_estimates(url: str) -> None:
    with open_ledger(url) as ledger:
        asyncio.run(ledger.reserve(reservation()))
    with open_ledger(url) as ledger:
        assert ledger.num_recovered == 1
        (row,) = rows_of(url)
        assert (row.state, row.cost, row.is_estimate, row.error_class) == ("recovered", row.held, True, "crash")
        assert check_books(url) == (500_000_000_000, 0)
        # It was alive after all, and tells what really happened.
        asyncio.run(ledger.settle(settlement()))
    assert check_books(url) == (100_000_000_000, 0)


def test_amount_or_name_that_cannot_be_booked_is_refused_before_it_is_one_of_a_page() -> None:
    with pytest.raises(LedgerError, match="between 0 and"):
        reservation(dollars="-1")
    with pytest.raises(LedgerError, match="between 0 and"):
        settlement(dollars="NaN")
    with pytest.raises(LedgerError, match="printable"):
        reservation(key="a\0b")


def test_second_process_cannot_open_the_file_for_writing(tmp_path: Path) -> None:
    url = str(tmp_path / "ledger.db")
    with open_ledger(url), pytest.raises(LedgerError, match="another process"):
        open_ledger(url)
    open_ledger(url).close()


def test_files_are_their_owner_s_alone(tmp_path: Path) -> None:
    with open_ledger(str(tmp_path / "ledger.db")) as ledger:
        asyncio.run(ledger.reserve(reservation()))
        assert {file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == {0o600}


def test_ledger_of_a_newer_version_is_refused(url: str) -> None:
    database = Database(url, steps=[["ALTER TABLE attempts ADD COLUMN note VARCHAR"]])
    database.close()
    with pytest.raises(LedgerError, match="version 2, and this small4 reads up to 1"):
        open_ledger(url)


def test_older_ledger_is_migrated_whole_or_not_at_all(url: str) -> None:
    with open_ledger(url) as ledger:
        asyncio.run(ledger.reserve(reservation()))
    step = "ALTER TABLE attempts ADD COLUMN note VARCHAR"
    with pytest.raises(LedgerUnavailableError):
        Database(url, steps=[[step, "ALTER TABLE nothing ADD COLUMN note VARCHAR"]])
    database = Database(url, steps=[[step, "UPDATE attempts SET note = 'kept'"]])
    assert database.transact(lambda it: it.execute(text("SELECT request_id, note FROM attempts")).all()) == [
        ("req_0", "kept")
    ]
    database.close()


def lock_out(url: str):
    """A foreign program in the middle of a long write."""
    connection = create_engine(f"sqlite:///{url}").connect()
    connection.exec_driver_sql("BEGIN IMMEDIATE")
    return connection


@pytest.mark.parametrize(
    "patience_seconds", [0.2, pytest.param(0.6, marks=pytest.mark.slow)]
)  # shorter, longer than one try of SQLite's
def test_locked_ledger_refuses_to_begin_and_keeps_what_ended(tmp_path: Path, patience_seconds: float) -> None:
    url = str(tmp_path / "ledger.db")
    config = LedgerConfig(url=url, writer=WriterConfig(patience_seconds=patience_seconds, retry_seconds=0.02))

    async def run() -> tuple[int, int]:
        first = await reserve_at_last(ledger, 0)
        outsider = lock_out(url)
        began = time.monotonic()
        ended = asyncio.create_task(ledger.settle(settlement(first)))
        with pytest.raises(LedgerUnavailableError):
            await ledger.reserve(reservation(1000))
        await ended  # nobody waits for ever
        assert time.monotonic() - began < 5
        await asyncio.sleep(0.3)
        assert ledger.is_failing
        with pytest.raises(LedgerUnavailableError, match="at the moment"):  # at once, without waiting
            await ledger.reserve(reservation(1001))
        assert rows_of(url)[-1].state == "held"
        outsider.close()
        return first, await reserve_at_last(ledger, 2000)

    with Ledger(config) as ledger:
        first, last = asyncio.run(run())
    states = {row.request_id: row.state for row in rows_of(url)}
    assert (states.pop(f"req_{first}"), states.pop(f"req_{last}")) == ("settled", "held")
    assert set(states.values()) <= {"released"}
    assert check_books(url) == (100_000_000_000, 500_000_000_000)


@pytest.mark.slow
def test_full_disk_refuses_to_begin_loses_nothing_and_is_got_over(tmp_path: Path) -> None:
    url = str(tmp_path / "ledger.db")
    config = LedgerConfig(url=url, writer=WriterConfig(patience_seconds=0.3, retry_seconds=0.02))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    async def fill() -> int:
        """Reserve and settle until the file may not grow any more; how many were acknowledged."""
        for number in range(3000):
            try:
                await ledger.reserve(reservation(number))
            except LedgerUnavailableError:
                return number
        raise AssertionError("the file was to be full by now")

    async def get_over() -> None:
        await reserve_at_last(ledger, 5000)

    with Ledger(config) as ledger:
        size = 64 * 1024 + (tmp_path / "ledger.db").stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            num_acknowledged = asyncio.run(fill())
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        asyncio.run(get_over())
    held = [row.request_id for row in rows_of(url) if row.state == "held"]
    assert num_acknowledged > 50
    assert held[:-1] == [f"req_{number}" for number in range(num_acknowledged)]
    check_books(url)


async def reserve_at_last(ledger: Ledger, number: int) -> int:
    """Reserve as soon as the disk is in time; which attempt it became."""
    async with asyncio.timeout(30):
        while True:
            try:
                await ledger.reserve(reservation(number))
            except LedgerUnavailableError:
                await asyncio.sleep(0.02)
                number += 1
            else:
                return number


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # pg8000 leaves the socket of a cut connection to the collector
def test_postgresql_that_cut_the_connection_is_used_again(postgresql) -> None:
    url = postgresql()

    async def run() -> None:
        await ledger.reserve(reservation(0))
        with create_engine(url).connect() as other:
            other.execute(text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"))
        await ledger.settle(settlement(0))
        await ledger.reserve(reservation(1))

    with open_ledger(url) as ledger:
        asyncio.run(run())
        with open_ledger(url) as other:  # the first one lives, so its hold is its own
            assert other.num_recovered == 0
    gc.collect()
    assert check_books(url) == (100_000_000_000, 500_000_000_000)


@pytest.mark.slow
def test_budget_holds_across_servers_on_one_postgresql(postgresql) -> None:
    url = postgresql()

    async def race() -> list:
        return await asyncio.gather(
            *((first if number % 2 else second).reserve(reservation(number, dollars="0.25")) for number in range(64)),
            return_exceptions=True,
        )

    with open_ledger(url, A_DOLLAR) as first, open_ledger(url, A_DOLLAR) as second:
        assert asyncio.run(race()).count(None) == 4
    assert check_books(url) == (0, 1_000_000_000_000)


def test_old_library_gets_a_rollback_journal_and_a_new_one_a_log(tmp_path: Path, monkeypatch) -> None:
    for version, journal in (((3, 51, 2), "rollback"), ((3, 51, 3), "wal")):
        monkeypatch.setattr(sqlite3, "sqlite_version_info", version)
        with open_ledger(str(tmp_path / f"{journal}.db")) as ledger:
            asyncio.run(ledger.reserve(reservation()))
            assert ledger.journal == journal
            assert (tmp_path / f"{journal}.db-wal").exists() == (journal == "wal")


def test_closing_commits_what_waits(tmp_path: Path) -> None:
    url = str(tmp_path / "ledger.db")

    async def run() -> None:
        tasks = [asyncio.create_task(ledger.reserve(reservation(number))) for number in range(50)]
        await asyncio.sleep(0)
        await asyncio.to_thread(ledger.close)
        await asyncio.gather(*tasks)

    ledger = open_ledger(url)
    asyncio.run(run())
    with pytest.raises(LedgerUnavailableError, match="closed"):
        asyncio.run(ledger.reserve(reservation()))
    assert len(rows_of(url)) == 50


def test_hold_counts_as_spent_where_the_cost_stays_unknown(tmp_path: Path) -> None:
    url = str(tmp_path / "ledger.db")
    with open_ledger(url, A_DOLLAR) as ledger:
        asyncio.run(ledger.reserve(reservation(0, dollars="0.7")))
        asyncio.run(ledger.settle(settlement(0, dollars=None)))
        with pytest.raises(BudgetError, match=r"has \$0.3 left"):
            asyncio.run(ledger.reserve(reservation(1, dollars="0.4")))
    assert [row.cost for row in rows_of(url)] == [None]
    assert check_books(url) == (700_000_000_000, 0)


def test_what_waits_for_a_failing_database_is_bounded_and_written_in_pages(tmp_path: Path) -> None:
    url = str(tmp_path / "ledger.db")
    writer = WriterConfig(max_page=2, max_waiting=4, retry_seconds=0.02)

    async def run() -> int:
        outsider = lock_out(url)
        waiting = [asyncio.create_task(ledger.reserve(reservation(number))) for number in range(2)]
        await asyncio.sleep(0.05)  # the first page is on its way
        waiting += [asyncio.create_task(ledger.reserve(reservation(number))) for number in range(2, 6)]
        await asyncio.sleep(0.4)  # one try of SQLite's, and the pause after it
        with pytest.raises(BusyError, match="4 requests wait"):
            await ledger.reserve(reservation(99))
        ends = [asyncio.create_task(ledger.settle(settlement(number))) for number in range(6)]
        await asyncio.sleep(0.4)
        num_before = ledger.num_commits
        outsider.close()
        answers = await asyncio.gather(*waiting, *ends, return_exceptions=True)
        assert answers[:6].count(None) >= 5  # one may have met the limit
        return ledger.num_commits - num_before

    with Ledger(LedgerConfig(url=url, writer=writer)) as ledger:
        assert asyncio.run(run()) >= 5  # of two entries each
    assert check_books(url)[1] == 0


def test_budget_of_each_app_does_not_limit_what_no_app_asks(tmp_path: Path) -> None:
    with open_ledger(str(tmp_path / "ledger.db"), Budget(scope="app", dollars=Decimal("0.1"))) as ledger:
        asyncio.run(ledger.reserve(reservation(0, dollars="0.2")))
        with pytest.raises(BudgetError, match="for app 'notes'"):
            asyncio.run(ledger.reserve(reservation(1, dollars="0.2", app="notes")))
