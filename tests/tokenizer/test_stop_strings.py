"""Stop strings in pieces of text, held to a search in the whole."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from small4.errors import SamplingError
from small4.tokenizer.stop_strings import StopStrings, check_stop

some_text = st.text(alphabet="ab\n😀é", max_size=30)
some_stops = st.lists(st.text(alphabet="ab\n😀é", min_size=1, max_size=5), max_size=4)


def cut(text: str, stops: list[str]) -> tuple[str, str | None]:
    """The rule on the whole text: the match that ends first, the longest of those that end there."""
    ends = [
        (start + len(stop), start, stop) for stop in stops for start in range(len(text)) if text.startswith(stop, start)
    ]
    if not ends:
        return text, None
    _, start, stop = min(ends)
    return text[:start], stop


def pieces_of(text: str, data: st.DataObject) -> list[str]:
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)))) | {0, len(text)})
    return [text[start:end] for start, end in pairwise(cuts)]


@given(text=some_text, stops=some_stops, data=st.data())
def test_pieces_give_what_a_search_in_the_whole_gives(text: str, stops: list[str], data: st.DataObject) -> None:
    matcher = StopStrings(stops)
    shown = "".join(matcher.push(piece) for piece in pieces_of(text, data)) + matcher.flush()
    assert (shown, matcher.found) == cut(text, stops)


@given(text=some_text, stops=some_stops, data=st.data())
def test_no_more_is_held_back_than_could_begin_a_stop_string(text: str, stops: list[str], data: st.DataObject) -> None:
    matcher = StopStrings(stops)
    seen = shown = ""
    for piece in pieces_of(text, data):
        seen, shown = seen + piece, shown + matcher.push(piece)
        if matcher.found is not None:
            return
        held = max((size for stop in stops for size in range(len(stop)) if seen.endswith(stop[:size])), default=0)
        assert shown == seen[: len(seen) - held]


@given(texts=st.lists(some_text, max_size=4), stops=some_stops)
def test_a_flush_parts_texts(texts: list[str], stops: list[str]) -> None:
    matcher = StopStrings(stops)
    for text in texts:
        assert matcher.push(text) + matcher.flush() == cut(text, stops)[0]
        if matcher.found is not None:
            return


def test_a_stop_string_ends_the_text_for_good() -> None:
    matcher = StopStrings(["END"])
    assert [matcher.push(piece) for piece in ("one E", "N", "D two", " three")] == ["one ", "", "", ""]
    assert (matcher.flush(), matcher.found) == ("", "END")


def test_a_stop_string_does_not_reach_across_a_flush() -> None:
    matcher = StopStrings(["ab"])
    assert matcher.push("xa") + matcher.flush() == "xa"
    assert matcher.push("b") + matcher.flush() == "b"
    assert matcher.found is None


def test_work_does_not_grow_with_the_length_of_a_repeating_stop_string() -> None:
    matcher = StopStrings(["a" * 255 + "b"])
    assert len(matcher.push("a" * 100_000)) == 100_000 - 255
    assert matcher.push("b") == ""
    assert matcher.found == "a" * 255 + "b"


def test_limits_hold_at_their_edges() -> None:
    check_stop(())
    check_stop(("x" * 256,) * 16)


@pytest.mark.parametrize(
    ("stops", "message"),
    [
        (("x",) * 17, "17 stop strings, the limit is 16"),
        (("a", ""), "stop string 2 has 0 characters; it must have 1 to 256"),
        (("x" * 257,), "has 257 characters"),
        (("a\ud83d",), "surrogate"),
        ((5,), "stop string 1 is int"),
        ("END", "give a tuple"),
    ],
)
def test_stop_strings_beyond_the_limits_are_refused(stops: Any, message: str) -> None:
    with pytest.raises(SamplingError, match=message):
        check_stop(stops)
