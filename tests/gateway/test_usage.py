"""What was booked can be read again, summed and attempt by attempt."""

import asyncio
import csv
import io
import json
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from small4.errors import ConfigError, LedgerError
from small4.gateway import usage
from small4.gateway.ledger import Ledger, LedgerConfig
from small4.gateway.usage import GROUPINGS, AttemptRow, Filter, read_attempts, read_usage, sums_of_blocks
from small4.gateway.usage_export import write_csv, write_json
from tests.cli.conftest import Small4
from tests.cli.conftest import small4 as small4  # a fixture
from tests.gateway.books import reservation, settlement

FIRST = datetime(2026, 11, 20, 23, 59, tzinfo=UTC)


@pytest.fixture
def booked(url: str) -> str:
    """Five attempts over two days: settled, unpriced, estimated, released and open."""
    clock = iter([FIRST, FIRST, FIRST + timedelta(minutes=1), FIRST + timedelta(minutes=2), FIRST + timedelta(hours=1)])

    async def run() -> None:
        for number in range(5):
            name = "bob" if number == 4 else "alice"
            made = reservation(number, key=name, app="notes" if number % 2 else "")
            await ledger.reserve(replace(made, route="venice/small-4") if number == 2 else made)
        await ledger.settle(settlement(0, dollars="0.000000000001"))
        await ledger.settle(settlement(1, dollars=None))
        guessed = settlement(2, dollars="0.25")
        await ledger.settle(replace(guessed, is_estimate=True, finish="error", error_class="cut"))
        await ledger.release("req_3", error_class="connect")

    with Ledger(LedgerConfig(url=url), clock=lambda: next(clock).timestamp()) as ledger:
        asyncio.run(run())
    return url


def test_usage_is_summed_by_route_with_the_dearest_first(booked: str) -> None:
    venice, mistral = read_usage(booked, "route", Filter())
    assert (venice.name, venice.cost, venice.num_failed, venice.num_estimated) == (
        "venice/small-4", Decimal("0.25"), 1, 1,
    )  # fmt: skip
    assert (mistral.num_attempts, mistral.num_failed, mistral.num_open, mistral.num_unpriced) == (4, 1, 1, 1)
    assert (mistral.prompt_tokens, mistral.cached_tokens, mistral.completion_tokens, mistral.reasoning_tokens) == (
        20, 6, 8, 2,
    )  # fmt: skip
    assert mistral.cost == Decimal("0.000000000001")


def test_usage_by_day_follows_the_days_of_utc(booked: str) -> None:
    assert [(row.name, row.num_attempts) for row in read_usage(booked, "day", Filter())] == [
        ("2026-11-20", 2),
        ("2026-11-21", 3),
    ]


@pytest.mark.parametrize("at_once", [1, 2, 5])
@pytest.mark.parametrize("by", GROUPINGS)
def test_sums_by_blocks_are_those_of_the_rows(booked: str, monkeypatch: pytest.MonkeyPatch, by, at_once: int) -> None:
    monkeypatch.setattr(usage, "SUMMED_AT_ONCE", at_once)
    minute = timedelta(minutes=1)
    for wanted in (
        Filter(),
        Filter(key="alice"),
        Filter(app="notes"),
        Filter(since=FIRST + minute),
        Filter(until=FIRST),
    ):
        rows = list(read_attempts(booked, wanted))
        sums = {row.name: (row.num_attempts, row.completion_tokens, row.cost) for row in read_usage(booked, by, wanted)}
        names = {f"{row.began:%Y-%m-%d}" if by == "day" else getattr(row, by) for row in rows}
        for name in names:
            own = [row for row in rows if name in (f"{row.began:%Y-%m-%d}", getattr(row, by, None))]
            tokens, cost = sum(row.completion_tokens or 0 for row in own), sum(row.cost or 0 for row in own)
            assert sums.pop(name) == (len(own), tokens, cost)
        assert not sums


def test_ledger_is_written_while_its_usage_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage, "SUMMED_AT_ONCE", 2)
    url = str(tmp_path / "ledger.db")

    async def reserve(*numbers: int) -> None:
        await asyncio.gather(*(ledger.reserve(reservation(number)) for number in numbers))

    with Ledger(LedgerConfig(url=url)) as ledger:
        asyncio.run(reserve(*range(5)))
        blocks = sums_of_blocks(url, "key", Filter())
        seen = [next(blocks)]
        num_commits = ledger.num_commits
        asyncio.run(reserve(5))
        assert ledger.num_commits == num_commits + 1
        seen += blocks
    assert [row.num_attempts for block in seen for row in block] == [2, 2, 2]


def test_filter_leaves_out_what_is_not_meant(booked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def ids(wanted: Filter) -> list[str]:
        return [row.request_id for row in read_attempts(booked, wanted)]

    assert ids(Filter(key="bob")) == ["req_4"]
    assert ids(Filter(key="' OR 1=1 --")) == []
    monkeypatch.setattr(usage, "ROWS_AT_ONCE", 2)
    assert ids(Filter()) == ["req_0", "req_1", "req_2", "req_3", "req_4"]
    assert ids(Filter(app="notes")) == ["req_1", "req_3"]
    minute = timedelta(minutes=1)
    assert ids(Filter(since=FIRST + minute, until=FIRST + 3 * minute)) == ["req_2", "req_3"]


def test_exports_hold_every_field_and_digit(booked: str) -> None:
    rows = list(read_attempts(booked, Filter()))
    as_csv, as_json = io.StringIO(newline=""), io.StringIO()
    assert write_csv(as_csv, AttemptRow, rows) == write_json(as_json, rows) == 5
    assert as_csv.getvalue().count("\n") == 6
    as_csv.seek(0)
    first = next(csv.DictReader(as_csv))
    assert (first["cost"], first["held"], first["began"]) == ("0.000000000001", "0.5", "2026-11-20T23:59:00+00:00")
    parsed = json.loads(as_json.getvalue())
    assert Decimal(parsed[0]["cost"]) == rows[0].cost
    assert (parsed[1]["cost"], parsed[1]["first_token_seconds"]) == (None, 0.25)


def test_parquet_holds_the_same_money(booked: str, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    from small4.gateway.usage_parquet import write_parquet

    path = tmp_path / "attempts.parquet"
    assert write_parquet(path, read_attempts(booked, Filter())) == 5
    table = parquet.read_table(path)
    assert table["cost"].to_pylist()[:2] == [Decimal("0.000000000001"), None]
    assert table["began"].to_pylist()[0] == FIRST


def test_grouping_and_missing_ledger_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="key, app, route, day"):
        read_usage(str(tmp_path / "ledger.db"), "colour", Filter())
    with pytest.raises(LedgerError, match="there is no ledger"):
        read_usage(str(tmp_path / "ledger.db"), "key", Filter())
    assert not list(tmp_path.iterdir())


def test_verb_prints_the_table_its_total_and_what_the_sums_leave_out(booked: str, small4: Small4) -> None:
    done = small4("usage", "--by", "route", "--since", "2026-11-01", "--ledger", booked)
    assert done.stdout.splitlines() == [
        "route            attempts  failed  tokens in  cached  tokens out  reasoning  cost",
        "venice/small-4   1         1       10         3       4           1          $0.250000",
        "mistral/small-4  4         1       20         6       8           2          $0.000000",
        "all              5         2       30         9       12          3          $0.250000",
    ]
    assert "1 attempts of unknown cost" in done.stderr


def test_verb_speaks_json_and_csv_and_writes_files(booked: str, small4: Small4, tmp_path: Path) -> None:
    common = ("usage", "--since", "all", "--ledger", booked)
    (bob,) = json.loads(small4(*common, "--by", "key", "--key", "bob", "--json").stdout)
    assert (bob["name"], bob["num_open"], bob["cost"]) == ("bob", 1, "0")
    assert small4(*common, "--by", "app", "--csv").stdout.splitlines()[0].startswith("name,num_attempts")
    assert small4(*common, "--export", "all.json").stdout == "wrote 5 attempts to all.json\n"
    assert len(json.loads((tmp_path / "all.json").read_text())) == 5


def test_verb_says_what_it_needs(small4: Small4, booked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.delitem(sys.modules, "small4.gateway.usage_parquet", raising=False)
    common = ("usage", "--ledger", booked)
    for arguments, words in (
        (("--export", "a.parquet"), "pip install pyarrow"),
        (("--export", "a.xls"), ".csv, .json, .parquet"),
        (("--since", "yesterday"), "2026-11-01"),
        (("--by", "colour"), "key, app, route, day"),
    ):
        done = small4(*common, *arguments)
        assert (done.returncode, words in done.stderr) == (2, True)
    assert "nothing was asked since 1h" in small4(*common, "--since", "1h").stdout
