"""The reader of forms agrees with the standard library's, however the bytes are cut, and holds to its bounds."""

import random
from email import message_from_bytes

import pytest

from small4.errors import FieldError
from small4.server.bounds import Bounds
from small4.server.multipart import FormReader

TYPE = "multipart/form-data; boundary=B"


def part(disposition: str, value: bytes, boundary: str = "B") -> bytes:
    return f"--{boundary}\r\nContent-Disposition: form-data; {disposition}\r\n\r\n".encode() + value + b"\r\n"


FILE = part('name="file"; filename="f"', b"x")
END = b"--B--\r\n"


def read(pieces: list[bytes], content_type: str = TYPE, bounds: Bounds | None = None):
    reader = FormReader(content_type, bounds or Bounds())
    file = b"".join(found for piece in pieces for found in reader.feed(piece))
    return reader.finish(), file


def by_the_library(body: bytes, content_type: str) -> tuple[dict[str, str], bytes]:
    """The definition: the same form by the standard library, all of it at once."""
    message = message_from_bytes(f"Content-Type: {content_type}\r\n\r\n".encode() + body)
    fields, file = {}, b""
    for found in message.get_payload():
        value = found.get_payload(decode=True)
        if found.get_param("name", header="content-disposition") == "file":
            file = value
        else:
            fields[found.get_param("name", header="content-disposition")] = value.decode()
    return fields, file


CONTENTS = (
    b"",
    b"x",
    b"\r\n",
    b"-",
    b"--",
    b" --B",
    b"\r\n--",
    b"\r\n--C",
    b"-B--",
    b"a\r\r\n--b\n\r",
    b"\r\n-" * 50,
    b"\n--B\n",
)


@pytest.mark.parametrize("content", CONTENTS)
def test_form_that_is_cut_anywhere_is_read_as_the_library_reads_it_whole(content):
    # RFC 2046 ends a line with both characters; the library takes a bare line feed for one too, and is asked otherwise.
    body = part('name="purpose"', b"batch") + part('name="file"; filename="in.jsonl"', content) + END
    fields, file = ({"purpose": "batch"}, content) if b"\n--B\n" in content else by_the_library(body, TYPE)
    assert file == content
    for cut in range(len(body) + 1):
        form, found = read([body[:cut], body[cut:]])
        assert (form.fields, found, form.filename) == (fields, file, "in.jsonl")
    form, found = read([body[n : n + 1] for n in range(len(body))])
    assert (form.fields, found) == (fields, file)


def test_random_bytes_come_through_as_they_were():
    draw = random.Random(1)
    for _ in range(100):
        content = bytes(draw.choices(b"\r\n-Bx", k=draw.randrange(300)))
        if b"\r\n--B" in b"\r\n" + content:
            continue
        body = part('name="file"; filename="f"', content) + END
        cuts = sorted(draw.sample(range(len(body)), 5))
        pieces = [body[start:end] for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True)]
        assert read(pieces)[1] == content


NAMES = {
    'name="file"; filename="a b;c=d.txt"': "a b;c=d.txt",
    'filename="x"; name="file"': "x",
    r'name="file"; filename="a\"b\\c"': r"a\"b\c".replace(r"\"", '"'),
    "name=file; filename=plain": "plain",
    'name="file"': "file",
    'name="file"; filename=""': "file",
    'NAME="file"; FileName="x"': "x",
    'name="file"; filename="über"': "über",
}


@pytest.mark.parametrize("disposition", NAMES)
def test_name_of_a_file_is_read_with_and_without_quotes(disposition):
    assert read([part(disposition, b"x") + END])[0].filename == NAMES[disposition]


BAD = {
    "something before": b"hello\r\n" + FILE + END,
    "other boundary": FILE.replace(b"--B", b"--C") + END,
    "no end": FILE,
    "half an end": FILE + b"--B-",
    "other end": FILE + b"--Bx\r\n",
    "boundary where a part begins": part('name="file"', b"--B") + END,
    "no name": part('filename="x"', b"x") + END,
    "no disposition": b"--B\r\n\r\nx\r\n" + END,
    "attachment": FILE.replace(b"form-data", b"attachment") + END,
    "two files": FILE + FILE + END,
    "field twice": part('name="purpose"', b"a") + part('name="purpose"', b"b") + FILE + END,
    "no file": part('name="purpose"', b"batch") + END,
    "nothing": END,
    "empty": b"",
}


@pytest.mark.parametrize("name", BAD)
def test_form_that_could_be_read_in_two_ways_is_refused(name):
    with pytest.raises(FieldError):
        read([BAD[name]])


@pytest.mark.parametrize(
    "content_type",
    [
        "",
        "application/json",
        "multipart/mixed; boundary=B",
        "multipart/form-data",
        "multipart/form-data; boundary=",
        'multipart/form-data; boundary=""',
        "multipart/form-data; boundary=" + "b" * 71,
        "multipart/form-data; boundary=ü",
        'multipart/form-data; boundary="B "',
        "multipart/form-data; boundary=a\r\nb",
    ],
)
def test_type_without_a_good_boundary_is_refused(content_type):
    with pytest.raises(FieldError):
        FormReader(content_type, Bounds())


def test_boundary_may_be_quoted_and_of_seventy_characters():
    boundary = "b" * 70
    body = part('name="file"', b"x", boundary) + f"--{boundary}--".encode()
    assert read([body], f'Multipart/Form-Data; charset=utf-8; BOUNDARY="{boundary}"')[1] == b"x"


def test_parts_headers_and_fields_are_taken_up_to_their_limits_and_no_further():
    bounds = Bounds(max_form_parts=3, max_form_head_bytes=100, max_form_field_bytes=10)
    fields = part('name="a"', b"x" * 10) + part('name="b"', b"")
    assert read([fields + FILE + END], bounds=bounds)[0].fields == {"a": "x" * 10, "b": ""}
    too_much = {
        "parts": fields + part('name="c"', b"") + FILE + END,
        "field": part('name="a"', b"x" * 11) + FILE + END,
        "head": part('name="file"; filename="' + "f" * 100 + '"', b"x") + END,
        "head without end": b"--B\r\n" + b"x" * 200,
    }
    for body in too_much.values():
        with pytest.raises(FieldError, match="limit"):
            read([body[n : n + 7] for n in range(0, len(body), 7)], bounds=bounds)


def test_no_more_than_one_piece_waits_in_the_reader():
    reader = FormReader(TYPE, Bounds())
    reader.feed(part('name="file"; filename="f"', b"")[:-2])
    for _ in range(100):
        assert reader.feed(b"\r\n--" * 1000)
        assert len(reader._buffer) < 10
