"""A few mutated requests of every dialect; `python -m tests.server.fuzz` sends as many as one wants."""

import asyncio

import pytest

from tests.server.fuzz import run, served_in


@pytest.mark.parametrize("num_cases", [300, pytest.param(20_000, marks=pytest.mark.slow)])
def test_no_mutated_request_is_our_fault_or_leaves_anything_behind(tmp_path, num_cases):
    served = served_in(tmp_path)
    found, faults = asyncio.run(run(served, num_cases, seed=7))
    assert not faults
    statuses = {status for _, status in found}
    assert {200, 400, 422} <= statuses  # it reaches both sides of the dialects
    service = served.service
    assert (service.admission.num_running, service.admission.num_queued, service.bodies.held_bytes) == (0, 0, 0)
    assert served.provider.num_open == 0
