"""The measures of the ledger and the gateway, with fewer repetitions than their benchmarks have."""

import asyncio
from pathlib import Path

import pytest

from benchmarks.gateway_faults import run_all as run_faults
from benchmarks.ledger import race_many
from benchmarks.ledger_kills import kill_many

pytestmark = pytest.mark.slow


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # fork beside threads; the child starts its own
def test_fifty_kills_lose_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    tally = kill_many(tmp_path, 50, seed=7)
    assert tally.is_good, tally
    assert tally.num_kills == 50
    assert tally.num_settled > 100


def test_of_a_thousand_races_for_the_last_unit_each_has_one_winner(tmp_path: Path) -> None:
    found = asyncio.run(race_many(tmp_path / "ledger.db", 1000, seed=7))
    assert found == {"races": 1000, "overshoot": 0, "false_refusals": 0, "holds_left": 0}


def test_every_fault_of_a_provider_ends_well_and_is_booked_once(tmp_path: Path) -> None:
    found = asyncio.run(run_faults(tmp_path, 1))
    assert found["kinds"] >= 40
    assert found["wrong"] == []
    assert found["rows"] == found["requests_at_the_providers"] + found["rows_for_requests_nobody_received"]
    assert found["rows_held"] == 0
