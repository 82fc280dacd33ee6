"""The ledger: races for the last of a budget, and entries per second where requests share commits.

    python -m benchmarks.ledger          1,000 races of 64 requests, five rounds of speed
    python -m benchmarks.ledger_kills    kill -9, 10,000 times

Speed is that of a caller: an entry counts when its commit has returned. Plain is the same ledger with one entry in
each commit; the two take turns.
"""

import argparse
import asyncio
import sqlite3
import sys
import tempfile
import time
from decimal import Decimal
from pathlib import Path
from random import Random
from statistics import median

from sqlalchemy import select

from benchmarks.report import print_table, write_results
from small4.chat import Usage
from small4.errors import BudgetError
from small4.gateway.budgets import Budget
from small4.gateway.ledger import Ledger, LedgerConfig
from small4.gateway.ledger_database import engine_for_reading, parse_url
from small4.gateway.ledger_entries import Reservation, Settlement
from small4.gateway.ledger_tables import spending
from small4.gateway.ledger_writer import WriterConfig
from small4.gateway.money import to_units

RACERS = 64
CALLERS = (1, 16, 64)


def main() -> int:
    parser = argparse.ArgumentParser(description="Race and time the ledger.")
    parser.add_argument("--races", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each round and number of callers")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--directory", type=Path, help="on the disk that matters; default: a temporary one")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.directory) as scratch:
        directory = Path(scratch)
        races = asyncio.run(race_many(directory / "races.db", arguments.races, arguments.seed))
        speeds = measure(directory, arguments.rounds, arguments.seconds)
    print_table(["what", "count"], [[name, f"{value:,}"] for name, value in races.items()])
    print_table(["entries/s by callers", "plain", "shared", "times", "shared p50 ms", "p99 ms"], rows_of(speeds))
    results = {"sqlite": sqlite3.sqlite_version, "seed": arguments.seed, "races": races, **speeds}
    print(write_results("ledger", results))
    return 1 if races["overshoot"] or races["holds_left"] or races["false_refusals"] else 0


async def race_many(path: Path, num_races: int, seed: int) -> dict[str, int]:
    """In each race 64 requests of one key want what only one of them can have; the winner uses up to all of it."""
    random, limit = Random(seed), Decimal("0.01")
    overshoot = false_refusals = 0
    with Ledger(LedgerConfig(url=str(path), budgets=(Budget(scope="key", dollars=limit),))) as ledger:
        for race in range(num_races):
            answers = await asyncio.gather(
                *(ledger.reserve(reserving(race, racer, limit)) for racer in range(RACERS)), return_exceptions=True
            )
            winners = [racer for racer, answer in enumerate(answers) if answer is None]
            if unexpected := [answer for answer in answers if not (answer is None or isinstance(answer, BudgetError))]:
                raise unexpected[0]
            overshoot += max(0, len(winners) - 1)
            false_refusals += not winners
            for racer in winners:
                await end(ledger, f"race{race}-{racer}", random)
    engine = engine_for_reading(parse_url(str(path)))
    with engine.connect() as connection:
        sums = connection.execute(select(spending).where(spending.c.scope == "key")).all()
    engine.dispose()
    overshoot += sum(row.spent > to_units(limit) for row in sums)
    return {
        "races": num_races,
        "overshoot": overshoot,
        "false_refusals": false_refusals,
        "holds_left": sum(row.held > 0 for row in sums),
    }


def reserving(race: int, racer: int, dollars: Decimal) -> Reservation:
    return Reservation(
        request_id=f"race{race}-{racer}",
        route="r",
        model="m",
        key=f"key{race}",
        app=f"app{racer % 3}",
        estimate=dollars,
    )


async def end(ledger: Ledger, request_id: str, random: Random) -> None:
    if random.random() < 0.3:
        await ledger.release(request_id)
    else:
        await ledger.settle(settling(request_id))


def settling(request_id: str) -> Settlement:
    return Settlement(
        request_id=request_id, usage=Usage(900, 200), cost=Decimal("0.0002"), finish="stop", duration_seconds=1.0
    )


def measure(directory: Path, rounds: int, seconds: float) -> dict[str, object]:
    """Entries per second, plain and shared in turn, by the number of callers that wait at once."""
    found: dict[int, dict[str, list[float]]] = {callers: {"plain": [], "shared": []} for callers in CALLERS}
    waits: dict[int, list[float]] = {callers: [] for callers in CALLERS}
    journal = ""
    for number in range(rounds):
        for callers in CALLERS:
            for kind, max_page in (("plain", 1), ("shared", WriterConfig().max_page)):
                url = str(directory / f"speed-{number}-{callers}-{kind}.db")
                with Ledger(LedgerConfig(url=url, writer=WriterConfig(max_page=max_page))) as ledger:
                    journal = ledger.journal
                    speed, own_waits = asyncio.run(load(ledger, callers, seconds))
                found[callers][kind].append(speed)
                if kind == "shared":
                    waits[callers] += own_waits
    summary = {
        str(callers): {
            "plain_entries_per_second": round(median(both["plain"]), 1),
            "shared_entries_per_second": round(median(both["shared"]), 1),
            "shared_wait_p50_ms": round(percentile(waits[callers], 0.50) * 1e3, 2),
            "shared_wait_p99_ms": round(percentile(waits[callers], 0.99) * 1e3, 2),
            "rounds": {kind: [round(speed, 1) for speed in speeds] for kind, speeds in both.items()},
        }
        for callers, both in found.items()
    }
    return {"journal": journal, "callers": summary}


async def load(ledger: Ledger, callers: int, seconds: float) -> tuple[float, list[float]]:
    """So many callers, each reserving and settling without a pause; entries per second, and their waits."""
    waits: list[float] = []
    began = time.perf_counter()

    async def call(caller: int) -> None:
        number = 0
        while time.perf_counter() - began < seconds:
            request_id = f"load-{caller}-{number}"
            number += 1
            for entry in (
                ledger.reserve(
                    Reservation(
                        request_id=request_id, route="r", model="m", key=f"key{caller}", estimate=Decimal("0.001")
                    )
                ),
                ledger.settle(settling(request_id)),
            ):
                since = time.perf_counter()
                await entry
                waits.append(time.perf_counter() - since)

    await asyncio.gather(*(call(caller) for caller in range(callers)))
    return len(waits) / (time.perf_counter() - began), waits


def percentile(values: list[float], share: float) -> float:
    """The smallest value that so large a share of all does not pass."""
    return sorted(values)[max(0, -int(-share * len(values) // 1) - 1)]


def rows_of(speeds: dict[str, object]) -> list[list[str]]:
    callers = speeds["callers"]
    assert isinstance(callers, dict)
    return [
        [
            number,
            f"{facts['plain_entries_per_second']:,.0f}",
            f"{facts['shared_entries_per_second']:,.0f}",
            f"{facts['shared_entries_per_second'] / facts['plain_entries_per_second']:.1f}",
            f"{facts['shared_wait_p50_ms']:.1f}",
            f"{facts['shared_wait_p99_ms']:.1f}",
        ]
        for number, facts in callers.items()
    ]


if __name__ == "__main__":
    sys.exit(main())
