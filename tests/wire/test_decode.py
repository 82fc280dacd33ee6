"""Bodies and structs: what is wrong is named by its path, what is unknown is only listed."""

from time import process_time

import msgspec
import pytest

from small4.errors import FieldError
from small4.wire.decode import MAX_DEPTH, MAX_IGNORED, MAX_NODES, Ignored, convert, decode_object


class Inner(msgspec.Struct, tag_field="type", tag="inner"):
    size: int | None = None


class Outer(msgspec.Struct):
    name: str
    inner: list[Inner] = []


@pytest.mark.parametrize(
    "body", [b"", b"nul", b"[1]", b"7", b'"x"', b'{"a":NaN}', b'{"a":"\\ud800"}', b"\xff{}", b"9" * 5000]
)
def test_what_is_no_json_object_is_refused(body):
    with pytest.raises(FieldError):
        decode_object(body)


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "9" * 4301])
def test_a_number_that_cannot_be_held_is_named_by_its_path(text):
    for body, path in (
        ('{"a": {"b": [1, %s]}}', "a.b[1]"),
        ('{"a": 1.5, "b": %s, "c": [2]}', "b"),
        ("[%s]", "[0]"),
        ('{"' + "a" * 200 + '": %s}', "a" * 99),
    ):
        with pytest.raises(FieldError, match="not finite, or has more than 4300 digits") as caught:
            decode_object((body % text).encode())
        assert caught.value.param == path
    for body in ('{"a": %s', "%s", '{"a": %s} x'):  # no object around it, or no end to it
        with pytest.raises(FieldError) as caught:
            decode_object((body % text).encode())
        assert not caught.value.param


def test_a_number_that_cannot_be_held_is_found_in_time_however_deep_it_stands():
    body = b'{"' + b"n" * 50_000 + b'":' + b"[" * 200 + b"1," * 100_000 + b"NaN" + b"]" * 200 + b"}"
    start = process_time()
    with pytest.raises(FieldError, match=r"^nnn"):
        decode_object(body)
    assert process_time() - start < 2.5


def test_depth_is_limited():
    assert decode_object(b'{"a":' * MAX_DEPTH + b"1" + b"}" * MAX_DEPTH)
    for depth in (MAX_DEPTH + 1, 100_000):
        with pytest.raises(FieldError, match="64 levels"):
            decode_object(b'{"a":' * depth + b"1" + b"}" * depth)


def test_number_of_values_is_limited():
    body = msgspec.json.encode({"a": [0] * (MAX_NODES - 2)})
    assert decode_object(body)
    with pytest.raises(FieldError, match="200000 values"):
        decode_object(msgspec.json.encode({"a": [0] * (MAX_NODES - 1)}))


def test_a_wrong_field_is_named_by_its_path():
    with pytest.raises(FieldError, match=r"x\.inner\[1\]\.size: Expected `int \| null`") as caught:
        convert({"name": "a", "inner": [{"type": "inner"}, {"type": "inner", "size": "1"}]}, Outer, "x")
    assert caught.value.param == "x.inner[1].size"
    with pytest.raises(FieldError, match="missing required field `name`"):
        convert({}, Outer)


def test_a_wrong_value_is_quoted_in_short_and_on_one_line():
    value = "a - at `$.name`\r\n" + "b" * 10_000
    with pytest.raises(FieldError) as caught:
        convert({"name": "a", "inner": [{"type": value}]}, Outer)
    assert caught.value.param == "inner[0].type"
    assert len(str(caught.value)) < 250
    assert str(caught.value).isprintable()
    with pytest.raises(FieldError, match=r"^x: Expected `object`") as caught:
        convert([], Outer, "x")
    assert caught.value.param == "x"


def test_unknown_fields_are_gathered_once_without_the_empty_ones():
    ignored = Ignored()
    for path in ("inner", "inner"):
        ignored.unknown({"type": "inner", "size": 1, "b\r\nc": 1, "d": None, "e": False}, Inner, path)
    ignored.set(Outer("a", [Inner()]), ["name"])
    assert ignored.paths == ("inner.b??c", "inner.e", "name")


def test_unknown_fields_are_gathered_from_structs_in_structs():
    fields = {"name": "a", "b": 1, "inner": [{"type": "inner", "c": 1}, {"type": "inner", "c": 2, "d": None}]}
    ignored = Ignored()
    ignored.unknown_within(fields, convert(fields, Outer), "x")
    assert ignored.paths == ("x.b", "x.inner.c")


def test_many_ignored_fields_become_a_number():
    ignored = Ignored()
    for number in range(MAX_IGNORED + 3):
        ignored.add(f"field{number}")
    assert len(ignored.paths) == MAX_IGNORED + 1
    assert ignored.paths[-1] == "and-3-more"
