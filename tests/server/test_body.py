"""Bodies: counted while they come, timed while they do not, and measured before they are decoded."""

import asyncio

import pytest

from small4.errors import BusyError, FieldError, RateLimitError, TooLargeError
from small4.server.body import Bodies, ClientGone, check_json
from small4.server.bounds import Bounds
from small4.server.keys import Identity
from small4.server.refusal import Refusal


def scope(**headers: str) -> dict:
    return {"headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]}


def receiver(*parts: bytes):
    """A `receive` that gives these parts, and counts how many were taken."""
    taken = []

    async def receive():
        taken.append(1)
        if len(taken) > len(parts):
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": parts[len(taken) - 1], "more_body": len(taken) < len(parts)}

    receive.taken = taken
    return receive


def test_body_of_exactly_the_limit_is_read_and_one_byte_more_is_not():
    bodies = Bodies(Bounds(max_body_bytes=10))
    assert asyncio.run(bodies.read(scope(), receiver(b"12345", b"67890"))) == b"1234567890"
    with pytest.raises(TooLargeError, match="10 bytes"):
        asyncio.run(bodies.read(scope(), receiver(b"12345", b"67890", b"1")))


def test_reading_ends_with_the_part_that_is_too_much():
    receive = receiver(*[b"x" * 10] * 100)
    with pytest.raises(TooLargeError):
        asyncio.run(Bodies(Bounds(max_body_bytes=25)).read(scope(), receive))
    assert len(receive.taken) == 3


def test_declared_length_over_the_limit_is_refused_unread():
    receive = receiver(b"x")
    with pytest.raises(TooLargeError):
        asyncio.run(Bodies(Bounds(max_body_bytes=25)).read(scope(content_length="26"), receive))
    assert not receive.taken


def test_all_bodies_together_are_bounded_and_give_back_what_they_held():
    async def check():
        bodies = Bodies(Bounds(max_held_body_bytes=15))
        first, second = scope(), scope()
        await bodies.read(first, receiver(b"x" * 10))
        with pytest.raises(BusyError):
            await bodies.read(second, receiver(b"x" * 10))
        bodies.release(second)
        bodies.release(first)
        assert bodies.held_bytes == 0
        await bodies.read(second, receiver(b"x" * 15))

    asyncio.run(check())


def test_what_the_requests_of_one_key_hold_leaves_room_for_others():
    async def check():
        bodies = Bodies(Bounds(max_held_body_bytes=15, max_held_body_bytes_per_key=10))
        first, second, other = (scope() | {"identity": Identity(name, name, frozenset(), "")} for name in "aab")
        await bodies.read(first, receiver(b"x" * 10))
        with pytest.raises(RateLimitError, match="10 bytes already, the limit"):
            await bodies.read(second, receiver(b"x"))
        await bodies.read(other, receiver(b"x" * 5))
        bodies.release(first)
        await bodies.read(second, receiver(b"x" * 10))
        for held in (first, second, other):
            bodies.release(held)
        assert (bodies.held_bytes, dict(bodies._held_by)) == (0, {})

    asyncio.run(check())


def test_client_that_leaves_within_its_body_is_gone():
    async def receive():
        return {"type": "http.disconnect"}

    with pytest.raises(ClientGone):
        asyncio.run(Bodies(Bounds()).read(scope(), receive))


def test_body_that_stops_coming_is_a_408():
    async def receive():
        await asyncio.sleep(60)

    with pytest.raises(Refusal) as refused:
        asyncio.run(Bodies(Bounds(body_idle_seconds=0.01)).read(scope(), receive))
    assert refused.value.status == 408


def test_body_slower_than_the_least_rate_is_a_408():
    now = [0.0]

    async def receive():
        now[0] += 10.0
        return {"type": "http.request", "body": b"x", "more_body": True}

    bodies = Bodies(Bounds(body_seconds=60.0, min_body_bytes_per_second=1), clock=lambda: now[0])
    with pytest.raises(Refusal) as refused:
        asyncio.run(bodies.read(scope(), receive))
    assert refused.value.status == 408
    assert now[0] == 70.0  # not before the body has had its time


FEW = Bounds(max_json_values=10, max_json_string_bytes=100)


@pytest.mark.parametrize(
    "body",
    [
        b"[" + b",".join([b"1"] * 20) + b"]",
        b"[" + b",".join([b"[]"] * 20) + b"]",
        b"[" * 20 + b"]" * 20,
        b'{"a": {"b": [' + b",".join([b'"x"'] * 20) + b"]}}",
        b'["\\\\", ' + b",".join([b"1"] * 20) + b"]",  # a string that ends in an escaped backslash
    ],
)
def test_body_of_too_many_values_is_refused_before_it_is_decoded(body):
    with pytest.raises(FieldError, match="more than 10 JSON values"):
        check_json(body, FEW)


@pytest.mark.parametrize(
    "body",
    [
        b'"' + b"," * 80 + b'"',
        b'["' + b"[{," * 30 + b'"]',
        b'["\\"' + b"," * 50 + b'"]',  # an escaped quote does not end the string
        b'["\\\\\\"' + b"," * 50 + b'"]',
        b'{"a": ' + b" " * 200 + b"1}",
    ],
)
def test_marks_inside_strings_are_no_values(body):
    check_json(body, FEW)


def test_string_of_exactly_the_limit_passes_and_one_byte_more_does_not():
    check_json(b'["' + b"x" * 99 + b'"]', FEW)
    with pytest.raises(FieldError, match="longer than 100"):
        check_json(b'["' + b"x" * 100 + b'"]', FEW)


def test_string_without_an_end_is_measured_to_the_end_of_the_body():
    with pytest.raises(FieldError, match="longer than 100"):
        check_json(b'["' + b"x" * 500, FEW)


def test_time_to_look_a_body_over_grows_with_its_length_and_no_faster():
    import time

    def seconds(body: bytes) -> float:
        bounds = Bounds(max_json_string_bytes=2**25)
        times = []
        for _ in range(3):
            began = time.process_time()
            check_json(body, bounds)
            times.append(time.process_time() - began)
        return min(times)

    for piece in (b'\\"', b"\\\\", b"x", b",", b"[{"):
        for end in (b'"]', b""):
            short, long = (b'["' + piece * (size // len(piece)) + end for size in (2**19, 2**22))
            assert seconds(long) < 0.02 + 8 * 4 * seconds(short), (piece, end)  # squared it would be 64 times as long
