"""The measures of `benchmarks/ledger.py`, with fewer repetitions."""

import asyncio
from pathlib import Path

import pytest

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
