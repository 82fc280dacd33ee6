"""Every fault of a hosted provider through server, gateway and ledger: who gets an answer, and what is booked.

    python -m benchmarks.gateway_faults --repetitions 25

The first route leads to a real HTTP server that does one thing wrong, the second to one that answers. After each
episode its client must have a whole answer or a well-formed error, and the ledger a row for every request that the two
servers counted: none lost, none twice, none held.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from benchmarks.report import print_table, write_results
from small4.catalog.price import Prices, Rates, Tier, cost_of
from small4.errors import RequestError
from small4.gateway.attempt import Candidate
from small4.gateway.gateway import Gateway
from small4.gateway.health import Health
from small4.gateway.ledger import Ledger, LedgerConfig
from small4.gateway.money import to_units
from small4.gateway.usage import AttemptRow, Filter, read_attempts
from small4.providers.hosted import HostedProvider, served_model
from tests.providers.dialects import USAGE, provider_at
from tests.providers.fault_server import FaultServer, stream
from tests.providers.faults import FAULTS, GOOD, UNREACHABLE, Fault
from tests.providers.test_faults import PATIENT as BOUNDS
from tests.server.asgi import CHAT, Reply, Served

KINDS = {**FAULTS, "nobody there": UNREACHABLE}
LONGEST_SECONDS = 60.0  # for an episode, with all the others beside it
AT_ONCE = 10  # episodes
PATIENT = replace(BOUNDS, connect_seconds=30.0)  # a busy machine is no fault
SECONDS = {"first_byte_seconds": 0.5, "idle_seconds": 0.5, "error_seconds": 0.5, "total_seconds": 3.0}
PRICES = Prices(tiers=(Tier(standard=Rates(prompt=Decimal("0.15"), output=Decimal("0.6"), cached=Decimal("0.015"))),))
GOOD_COST = cost_of(USAGE, PRICES).usd


@dataclass
class Episode:
    """What is to be found of one request, and what was."""

    kind: str
    is_streamed: bool
    reply: Reply | None  # None: it hung
    num_asked_faulty: int
    num_asked_good: int


def main() -> int:
    parser = argparse.ArgumentParser(description="Send requests into every fault of a provider.")
    parser.add_argument("--repetitions", type=int, default=25)
    parser.add_argument("--directory", type=Path, help="of the ledger; default: a temporary one")
    arguments = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(dir=arguments.directory) as scratch:
        found = asyncio.run(run_all(Path(scratch), arguments.repetitions))
    found["seconds"] = round(time.monotonic() - began)
    print_table(["what", "count"], [[name, str(value)] for name, value in found.items() if name != "wrong"])
    print(*found["wrong"], sep="\n")
    print(write_results("gateway_faults", found))
    return 1 if found["wrong"] else 0


async def run_all(directory: Path, repetitions: int, kinds: Sequence[str] = tuple(KINDS)) -> dict[str, Any]:
    """All repetitions of all kinds, streamed and whole; counts, and every episode that went wrong."""
    url = str(directory / "ledger.db")
    episodes: list[Episode] = []
    gate = asyncio.Semaphore(AT_ONCE)
    with Ledger(LedgerConfig(url=url)) as ledger:
        for kind in kinds:
            episodes += await asyncio.gather(
                *(
                    episode(
                        kind, is_streamed, ledger, gate, directory / f"{kind.replace('/', ' ')}-{number}-{is_streamed}"
                    )
                    for number in range(repetitions)
                    for is_streamed in (False, True)
                )
            )
    rows: dict[str, list[AttemptRow]] = {}
    for row in read_attempts(url, Filter()):
        rows.setdefault(row.request_id, []).append(row)
    wrong = Counter(fault for it in episodes for fault in faults_of(it, rows))
    booked = [row for group in rows.values() for row in group]
    return {
        "kinds": len(kinds),
        "episodes": len(episodes),
        "answered": sum(it.reply is not None and it.reply.status == 200 for it in episodes),
        "requests_at_the_providers": sum(it.num_asked_faulty + it.num_asked_good for it in episodes),
        "rows": len(booked),
        "rows_for_requests_nobody_received": sum(row.error_class == "unreachable" for row in booked),
        "rows_held": sum(row.state == "held" for row in booked),
        "wrong": [f"{fault}: {count}" for fault, count in sorted(wrong.items())],
    }


async def episode(kind: str, is_streamed: bool, ledger: Ledger, gate: asyncio.Semaphore, directory: Path) -> Episode:
    """One request through a server of its own, with breakers that know nothing yet."""
    fault = KINDS[kind]
    async with gate, FaultServer(fault.script) as there, FaultServer([stream(GOOD.events)]) as good:
        url = there.url if fault is not UNREACHABLE else "http://127.0.0.1:1"
        bounds = PATIENT if fault.limit is None else replace(PATIENT, **{fault.limit: SECONDS[fault.limit]})
        faulty, sound = (
            provider_at(address, bounds=limits, is_streamed=streams)
            for address, limits, streams in ((url, bounds, fault.is_streamed), (good.url, PATIENT, True))
        )
        candidates = [candidate("faulty", faulty), candidate("good", sound)]
        gateway = Gateway(served_model("m"), lambda *_: candidates, ledger, Health())
        served = Served(directory, provider=gateway)
        reply: Reply | None = None
        visit = served.client.visit("POST", "/v1/chat/completions", {**CHAT, "stream": is_streamed})
        try:
            async with asyncio.timeout(LONGEST_SECONDS):
                await visit.task
                reply = await visit.reply()
        except TimeoutError:
            visit.leave()
        finally:
            served.log.close()
            await faulty.upstream.aclose()
            await sound.upstream.aclose()
        return Episode(kind, is_streamed, reply, len(there.asked), len(good.asked))


def candidate(route: str, provider: HostedProvider) -> Candidate:
    return Candidate(route=route, provider=provider, prices=PRICES)


def faults_of(it: Episode, rows: dict[str, list[AttemptRow]]) -> list[str]:
    """What is wrong with an episode; nothing, as a rule."""
    if it.reply is None:
        return [f"{it.kind}: the client hung"]
    own = rows.get(it.reply.headers["x-request-id"], [])
    found = [*_wrong_end(it, KINDS[it.kind]), *_wrong_rows(it, own)]
    return [f"{it.kind}, {'streamed' if it.is_streamed else 'whole'}: {what}" for what in found]


def _wrong_end(it: Episode, fault: Fault) -> list[str]:
    reply = it.reply
    assert reply is not None
    if fault.has_text:  # nothing else may answer
        if not it.is_streamed:
            return [] if reply.status >= 500 else [f"status {reply.status} for half an answer"]
        is_error = "[DONE]" not in reply.events and '"error"' in reply.events[-1]
        return [] if is_error else ["half an answer looks whole"]
    if issubclass(fault.error, RequestError) and it.num_asked_good == 0:  # the caller's own mistake, as it was told
        return [] if 400 <= reply.status < 500 else [f"status {reply.status} for the caller's mistake"]
    if reply.status != 200:
        return [f"status {reply.status}, and another route was there"]
    is_whole = reply.events[-1] == "[DONE]" if it.is_streamed else bool(reply.json["choices"][0]["finish_reason"])
    return [] if is_whole else ["the answer has no end"]


def _wrong_rows(it: Episode, own: list[AttemptRow]) -> list[str]:
    found = []
    received = [row for row in own if row.error_class != "unreachable"]
    by_route = Counter(row.route for row in received)
    if by_route["faulty"] != it.num_asked_faulty or by_route["good"] != it.num_asked_good:
        found.append(f"rows {dict(by_route)} for {it.num_asked_faulty} and {it.num_asked_good} requests")
    if [row.attempt for row in own] != list(range(len(own))):
        found.append(f"attempts {[row.attempt for row in own]}")
    if any(row.state == "held" for row in own):
        found.append("a row is held")
    wanted = [GOOD_COST] * it.num_asked_good
    if [row.cost for row in own if row.route == "good"] != wanted:
        found.append("a good answer's cost is wrong")
    over = [row for row in own if (row.cost or 0) > (row.held or 0)]
    if over or any(row.cost is not None and to_units(row.cost) < 0 for row in own):
        found.append("a row cost more than was held for it")
    return found


if __name__ == "__main__":
    sys.exit(main())
