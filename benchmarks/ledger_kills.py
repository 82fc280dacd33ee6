"""kill -9 of a process that writes a ledger, at any moment, again and again; then what it had acknowledged is sought.

    python -m benchmarks.ledger_kills --kills 10000

A killed process leaves what it had handed to the system; this shows that nothing is acknowledged too early and that
the file is in order after every kill. It cannot show a loss of power.
"""

import argparse
import asyncio
import os
import select
import signal
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any

import sqlalchemy

from benchmarks.report import print_table, write_results
from small4.chat import Usage
from small4.gateway.ledger import Ledger, LedgerConfig
from small4.gateway.ledger_database import engine_for_reading, parse_url
from small4.gateway.ledger_entries import Reservation, Settlement
from small4.gateway.ledger_tables import attempts, spending
from small4.gateway.money import to_units

KILLS_PER_FILE = 250
MAX_ACKNOWLEDGED = 60  # entries before the kill, which then comes within the next milliseconds
MAX_WAIT_SECONDS = 0.004
SHARE_WHILE_OPENING, OPENING_SECONDS = 0.15, 0.03  # the other kills: while it opens, makes tables, settles old holds
ESTIMATE = Decimal("0.01")
HELD = to_units(ESTIMATE)


@dataclass
class Tally:
    """What the processes had acknowledged, and what of it is wrong in the file."""

    num_kills: int = 0
    num_reserved: int = 0
    num_settled: int = 0
    num_lost: int = 0
    num_wrong_sums: int = 0
    num_damaged_files: int = 0
    kills_before_the_first: int = 0  # acknowledgement
    reserved: set[str] = field(default_factory=set, repr=False)  # of the file in work
    settled: dict[str, int] = field(default_factory=dict, repr=False)

    def facts(self) -> dict[str, int]:
        return {name: value for name, value in vars(self).items() if isinstance(value, int)}

    @property
    def is_good(self) -> bool:
        return not (self.num_lost or self.num_wrong_sums or self.num_damaged_files)


def main() -> int:
    parser = argparse.ArgumentParser(description="Kill the process that writes a ledger, many times.")
    parser.add_argument("--kills", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--directory", type=Path, help="on the disk that matters; default: a temporary one")
    arguments = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(dir=arguments.directory) as scratch:
        tally = kill_many(Path(scratch), arguments.kills, arguments.seed)
    print_table(["what", "count"], [[name, f"{value:,}"] for name, value in tally.facts().items()])
    facts = {"sqlite": sqlite3.sqlite_version, "seed": arguments.seed, "seconds": round(time.monotonic() - began)}
    print(write_results("ledger_kills", facts | tally.facts()))
    return 0 if tally.is_good else 1


def kill_many(directory: Path, num_kills: int, seed: int) -> Tally:
    """Run and kill so many processes, one after the other, on a new file for every few hundred."""
    random, tally = Random(seed), Tally()
    while tally.num_kills < num_kills:
        url = str(directory / f"ledger-{tally.num_kills}.db")
        for _ in range(min(KILLS_PER_FILE, num_kills - tally.num_kills)):
            kill_one(url, random, tally)
            tally.num_kills += 1
        Ledger(LedgerConfig(url=url)).close()  # settles what the last one held
        check(url, tally)
        tally.reserved.clear()
        tally.settled.clear()
    return tally


def kill_one(url: str, random: Random, tally: Tally) -> None:
    """Let a process write until a random number of acknowledgements has come, and kill it a moment later."""
    seed, wanted, pause = random.getrandbits(32), random.randrange(MAX_ACKNOWLEDGED), random.random() * MAX_WAIT_SECONDS
    if random.random() < SHARE_WHILE_OPENING:
        wanted, pause = 0, random.random() * OPENING_SECONDS
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        try:
            asyncio.run(write_for_ever(url, Random(seed), writer))
        finally:
            os._exit(1)
    os.close(writer)
    said = _read_lines(reader, wanted)
    time.sleep(pause)
    os.kill(child, signal.SIGKILL)
    while part := os.read(reader, 65536):
        said += part
    os.close(reader)
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status):
        raise RuntimeError("the writing process ended by itself")
    take(said, tally)


async def write_for_ever(url: str, random: Random, writer: int) -> None:
    """Reserve and settle from several tasks at once, and tell of each acknowledgement in one write."""
    ledger = Ledger(LedgerConfig(url=url))
    prefix = f"{os.getpid()}-{time.time_ns()}"

    async def one(task: int) -> None:
        number = 0
        while True:
            request_id = f"{prefix}-{task}-{number}"
            number += 1
            await ledger.reserve(
                Reservation(request_id=request_id, route="r", model="m", key=f"key{task % 3}", estimate=ESTIMATE)
            )
            os.write(writer, f"r {request_id}\n".encode())
            cost = random.randrange(HELD)
            await ledger.settle(
                Settlement(
                    request_id=request_id,
                    usage=Usage(1, 1),
                    cost=Decimal(cost) / 10**12,
                    finish="stop",
                    duration_seconds=1,
                )
            )
            os.write(writer, f"s {request_id} {cost}\n".encode())

    await asyncio.gather(*(one(task) for task in range(random.choice((1, 2, 4, 16)))))


def take(said: bytes, tally: Tally) -> None:
    """Count what a process had acknowledged."""
    lines = said.decode().splitlines()
    tally.kills_before_the_first += not lines
    for line in lines:
        match line.split():
            case ["r", request_id]:
                tally.reserved.add(request_id)
                tally.num_reserved += 1
            case ["s", request_id, cost]:
                tally.settled[request_id] = int(cost)
                tally.num_settled += 1


def check(url: str, tally: Tally) -> None:
    """Compare the file with what was acknowledged, and its sums with its rows."""
    engine = engine_for_reading(parse_url(url))
    with engine.connect() as connection:
        tally.num_damaged_files += connection.exec_driver_sql("PRAGMA integrity_check").scalar() != "ok"
        rows: dict[str, Any] = {row.request_id: row for row in connection.execute(sqlalchemy.select(attempts))}
        tally.num_lost += sum(request_id not in rows for request_id in tally.reserved)
        for request_id, cost in tally.settled.items():
            row = rows.get(request_id)
            tally.num_lost += row is None or row.state != "settled" or row.cost != cost
        tally.num_wrong_sums += dict(_sums(connection)) != _sums_by_rows(rows.values())
    engine.dispose()


def _sums(connection: sqlalchemy.Connection) -> Iterator[tuple[tuple[str, str], tuple[int, int]]]:
    totals = sqlalchemy.select(
        spending.c.scope, spending.c.name, sqlalchemy.func.sum(spending.c.spent), sqlalchemy.func.sum(spending.c.held)
    )
    for scope, name, spent, held in connection.execute(totals.group_by(spending.c.scope, spending.c.name)):
        yield (scope, name), (spent, held)


def _sums_by_rows(rows: Any) -> dict[tuple[str, str], tuple[int, int]]:
    """After recovery nothing is held, and an attempt that was cut off counts as if all of its hold had been spent."""
    sums: dict[tuple[str, str], tuple[int, int]] = {}
    for row in rows:
        for account in (("key", row.key), ("app", row.app), ("all", "")):
            cost = row.held if row.state == "recovered" else row.cost
            sums[account] = (sums.get(account, (0, 0))[0] + cost, 0)
    return sums


def _read_lines(reader: int, wanted: int) -> bytes:
    """What comes until so many lines are there; a process that says nothing for two minutes is stuck."""
    said = b""
    while said.count(b"\n") < wanted:
        if not select.select([reader], [], [], 120.0)[0]:
            raise RuntimeError("the writing process says nothing")
        part = os.read(reader, 65536)
        if not part:
            raise RuntimeError("the writing process ended by itself")
        said += part
    return said


if __name__ == "__main__":
    sys.exit(main())
