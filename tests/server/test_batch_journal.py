"""The journal of a batch: whatever is left of it after a crash, no line counts as done that is not, and none twice."""

import json

import pytest

from small4.errors import FieldError, TooLargeError
from small4.server.batch_journal import Journal
from small4.server.batch_lines import BatchLines
from small4.server.bounds import Bounds
from tests.server.batch_client import no_file_longer_than

LINES = [b'{"a": 1}', b'{"text": "two words"}', b"{}"]


def written(path) -> bytes:
    journal = Journal(path)
    for index, line in zip((2, 0, 1), LINES, strict=True):
        journal.begin(index)
        journal.end(index, "failed" if index == 0 else "answered", line)
    journal.begin(7)
    journal.leave(7)
    journal.begin(8)
    journal.close()
    return path.read_bytes()


def test_journal_that_is_read_again_says_the_same(tmp_path):
    path = tmp_path / "journal"
    data = written(path)
    again = Journal(path)
    assert list(again.lines("answered")) == [LINES[2] + b"\n", LINES[0] + b"\n"]  # by index: 1, then 2
    assert list(again.lines("failed")) == [LINES[1] + b"\n"]
    assert dict(again.counts) == {"answered": 2, "failed": 1}
    assert (again.num_begun[7], again.num_begun[8], again.num_bytes) == (0, 1, len(data))
    again.close()


def test_journal_that_is_cut_anywhere_keeps_what_was_whole_and_goes_on(tmp_path):
    path = tmp_path / "journal"
    data = written(path)
    for cut in range(len(data)):
        path.write_bytes(data[:cut])
        journal = Journal(path)
        kept = data[: journal.num_bytes]
        assert data.startswith(kept)
        assert kept.count(b"\n") == data[:cut].count(b"\n")
        left = [index for index in range(3) if index not in journal.ends]
        for index in left:
            journal.end(index, "answered", b'"new"')
        journal.close()
        again = Journal(path)
        assert set(again.ends) == {0, 1, 2}
        assert sorted([*again.lines("answered"), *again.lines("failed")]).count(b'"new"\n') == len(left)
        again.close()


def test_entry_with_any_byte_changed_is_never_another_line(tmp_path):
    path = tmp_path / "journal"
    data = written(path)
    good = {line + b"\n" for line in LINES}
    for place in range(len(data)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        journal = Journal(path)
        assert {*journal.lines("answered"), *journal.lines("failed")} <= good


@pytest.mark.parametrize("room", range(0, 60, 7))
def test_entry_without_room_counts_for_nothing_and_the_next_takes_its_place(tmp_path, room):
    path = tmp_path / "journal"
    num_bytes = len(written(path))
    journal = Journal(path)
    with no_file_longer_than(num_bytes + room):
        for _ in range(2):
            with pytest.raises(OSError, match="too large"):
                journal.end(5, "answered", b'"' + b"x" * 50 + b'"')
    assert (5 in journal.ends, journal.num_bytes) == (False, num_bytes)
    cut = Journal(path)  # as after a crash
    assert 5 not in cut.ends
    journal.begin(9)
    journal.end(5, "answered", b'"there"')
    journal.close()
    again = Journal(path)
    assert (again.num_begun[9], list(again.lines("answered"))[-1]) == (1, b'"there"\n')
    assert again.num_bytes == path.stat().st_size == journal.num_bytes


def lines_of(tmp_path, data: bytes, **bounds) -> BatchLines:
    path = tmp_path / "input"
    path.write_bytes(data)
    return BatchLines(path, "/v1/completions", Bounds(**bounds))


def request(custom_id: str, size: int = 1) -> bytes:
    body = {"prompt": "x" * size}
    return json.dumps({"custom_id": custom_id, "url": "/v1/completions", "body": body}).encode()


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n", b"\n\n \n"])
def test_lines_are_found_whatever_ends_them(tmp_path, end):
    lines = lines_of(tmp_path, b"\n" + request("a") + b"\r\n\n" + request("b", 200_000) + end)
    assert [lines.request(index)[0] for index in range(len(lines))] == ["a", "b"]
    assert len(json.loads(lines.request(1)[1])["prompt"]) == 200_000


def test_line_that_is_too_long_is_refused_without_being_held(tmp_path):
    lines = lines_of(tmp_path, request("a", 300_000) + b"\n" + request("b"), max_body_bytes=200_000)
    with pytest.raises(TooLargeError, match="limit"):
        lines.request(0)
    assert (lines.custom_id(0), lines.request(1)[0]) == (None, "b")


def test_same_custom_id_is_refused_the_second_time(tmp_path):
    lines = lines_of(tmp_path, request("a") + b"\n" + request("a"))
    assert lines.request(0)[0] == "a"
    with pytest.raises(FieldError, match="custom_id"):
        lines.request(1)
