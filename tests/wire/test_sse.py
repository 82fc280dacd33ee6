"""Server-sent events, cut anywhere."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from small4.errors import UpstreamError
from small4.wire.sse import KEEP_ALIVE, EventReader, ServerEvent, encode


def read(data: bytes, cuts: tuple[int, ...] = ()) -> list[ServerEvent]:
    reader, events, start = EventReader(), [], 0
    for end in (*sorted(cuts), len(data)):
        events += reader.feed(data[start:end])
        start = end
    return events


TEXT = st.text(st.characters(exclude_characters="\r", exclude_categories=("Cs",)))
EVENTS = st.lists(st.builds(ServerEvent, TEXT, st.none() | st.from_regex(r"[a-z_.]+", fullmatch=True)))


@given(events=EVENTS, cuts=st.lists(st.integers(0, 200), max_size=8), ending=st.sampled_from([b"\n", b"\r\n", b"\r"]))
def test_what_is_written_is_read_whatever_the_cuts_and_line_ends(events, cuts, ending):
    data = b"".join(encode(event) + KEEP_ALIVE for event in events).replace(b"\n", ending)
    cuts = tuple(min(cut, len(data)) for cut in cuts)
    assert read(data, cuts) == events  # a CR at the very end waits for its LF, but a comment follows each event


def test_fields_are_read_as_the_standard_says():
    data = (
        b"\xef\xbb\xbfdata:one\ndata:  two\nid: 7\nretry: 3\nnonsense\n: comment\n\nevent: x\n\ndata\n\ndata: cut off"
    )
    assert read(data) == [ServerEvent("one\n two"), ServerEvent("")]


def test_an_event_past_the_limit_is_refused_before_it_is_whole():
    reader = EventReader(max_event_bytes=100)
    for _ in range(14):
        assert list(reader.feed(b"data: x")) == []
    with pytest.raises(UpstreamError, match="larger than 100 bytes"):
        list(reader.feed(b"data: x"))
    with pytest.raises(UpstreamError, match="larger than 100 bytes"):
        list(EventReader(max_event_bytes=100).feed(b"data: 0123456789\n" * 20))
