"""A header is believed only when it adds up: whatever is done to it, we see a typed error or the same tensors."""

import json
import struct
from io import BytesIO

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from small4.checkpoint.header import MAX_HEADER_BYTES, MAX_NAME_BYTES, MAX_TENSORS, check_header, read_header
from small4.checkpoint.shards import Shards
from small4.errors import HeaderError, TensorMismatchError

ENTRY = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}


def write(path, listing, data=bytes(24)):
    header = listing if isinstance(listing, bytes) else json.dumps(listing).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)
    return path


@pytest.fixture
def sample(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "model.safetensors"
    tensors = {"a.weight": torch.randn(3, 4), "b": torch.randn(6).bfloat16(), "c": torch.tensor(2.0).bfloat16()}
    save_file(tensors, path, metadata={"format": "pt"})
    return path


def test_a_good_header_says_where_each_tensor_lies(sample):
    header = check_header(sample)
    tensors, shards = load_file(sample), Shards([sample])
    assert header.entries.keys() == tensors.keys() == set(shards.names())
    assert header.metadata == {"format": "pt"}
    for name, tensor in tensors.items():
        assert torch.equal(shards.tensor(name), tensor)
        assert shards.tensor(name).dtype == tensor.dtype


def read(raw):
    return read_header(BytesIO(raw), len(raw), "x.safetensors")


def test_a_file_cut_anywhere_is_refused(sample):
    whole = sample.read_bytes()
    for length in range(len(whole)):
        with pytest.raises(HeaderError, match=r"x\.safetensors"):
            read(whole[:length])
    sample.write_bytes(whole[:-1])
    with pytest.raises(HeaderError, match=r"model\.safetensors"):
        Shards([sample])


def test_bytes_after_the_last_tensor_are_refused(sample):
    sample.write_bytes(sample.read_bytes() + b"\0")
    with pytest.raises(HeaderError, match="end at byte"):
        check_header(sample)


def test_a_flipped_bit_in_the_header_is_refused_or_changes_no_tensor(sample):
    """What may survive is another name, which is then missing from the model, or other metadata."""
    whole, good = sample.read_bytes(), check_header(sample)
    survived = 0
    for position in range(good.data_start):
        for bit in range(8):
            damaged = bytearray(whole)
            damaged[position] ^= 1 << bit
            try:
                header = read(bytes(damaged))
            except HeaderError:
                continue
            survived += 1
            assert list(header.entries.values()) == list(good.entries.values())
    assert 0 < survived < good.data_start


@pytest.mark.parametrize(
    ("listing", "message"),
    [
        ({"a": ENTRY | {"dtype": "F64"}}, "span"),
        ({"a": ENTRY | {"dtype": "F31"}}, "unknown type"),
        ({"a": ENTRY | {"dtype": 5}}, "unknown type"),
        ({"a": ENTRY | {"shape": [2, 4]}}, "span"),
        ({"a": ENTRY | {"shape": [-2, -3]}}, "shape"),
        ({"a": ENTRY | {"shape": [True, 6]}}, "shape"),
        ({"a": ENTRY | {"shape": [2.0, 3]}}, "shape"),
        ({"a": ENTRY | {"shape": [2**62, 2**62, 2]}}, "span"),
        ({"a": ENTRY | {"shape": [2**64 + 6]}}, "shape"),
        ({"a": ENTRY | {"shape": [1] * 9 + [6]}}, "shape"),
        ({"a": ENTRY | {"shape": 6}}, "shape"),
        ({"a": ENTRY | {"data_offsets": [24, 0]}}, "span"),
        ({"a": ENTRY | {"data_offsets": [-24, 0]}}, "offsets"),
        ({"a": ENTRY | {"data_offsets": [0, 24, 48]}}, "offsets"),
        ({"a": ENTRY | {"data_offsets": [8, 32]}}, "gap"),
        ({"a": ENTRY | {"extra": 1}}, "exactly"),
        ({"a": {"dtype": "F32"}}, "exactly"),
        ({"a": None}, "exactly"),
        ({"a": ENTRY, "b": ENTRY}, "overlaps"),
        ({"a": ENTRY, "b": {"dtype": "F32", "shape": [1], "data_offsets": [20, 24]}}, "overlaps"),
        ({"a": ENTRY, "b": {"dtype": "F32", "shape": [1], "data_offsets": [24, 28]}}, "end at byte"),
        ({}, "end at byte"),
        ({"x" * (MAX_NAME_BYTES + 1): ENTRY}, "name"),
        ({"a": ENTRY, "__metadata__": {"a": 1}}, "metadata"),
        ({"a": ENTRY, "__metadata__": []}, "metadata"),
        (b"[]", "begin"),
        (b" {}", "begin"),
        (b"{", "JSON"),
        (b'{"a": NaNx}', "JSON"),
        (b'{"a": "\xff"}', "JSON"),
        (b"{" * 100_000, "JSON"),
        (b'{"a":' * 100_000, "JSON"),
        (b'{"a": {"shape": [' + b"9" * 5000 + b"]}}", "JSON"),
        (b'{"a": {"dtype":"F32","dtype":"F32","shape":[6],"data_offsets":[0,24]}}', "twice"),
        (b'{"a": 1, "a": 1}', "twice"),
    ],
)
def test_a_lying_header_is_refused(tmp_path, listing, message):
    with pytest.raises(HeaderError, match=message):
        check_header(write(tmp_path / "x.safetensors", listing))


def test_headers_beyond_the_limits_are_refused_before_they_are_read():
    for claim in (MAX_HEADER_BYTES + 1, 2**63, 2**64 - 1):
        with pytest.raises(HeaderError, match="limit"):
            read(struct.pack("<Q", claim) + b"{}")
    many = ",".join(f'"{number}":0' for number in range(MAX_TENSORS + 1))
    header = f"{{{many}}}".encode()
    with pytest.raises(HeaderError, match="200000"):
        read(struct.pack("<Q", len(header)) + header)


def test_empty_and_scalar_tensors_are_read(tmp_path):
    tensors = {"none": torch.empty(0, 4), "one": torch.tensor(3.0)}
    save_file(tensors, tmp_path / "x.safetensors")
    shards = Shards([tmp_path / "x.safetensors"])
    assert shards.tensor("none").shape == (0, 4)
    assert shards.tensor("one").item() == 3.0
    shards.release("none")


def test_a_tensor_at_an_odd_address_is_read(tmp_path):
    listing = {
        "a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
        "b": {"dtype": "F32", "shape": [2], "data_offsets": [1, 9]},
    }
    path = write(tmp_path / "x.safetensors", listing, b"\x07" + struct.pack("<2f", 1.5, -2.5))
    assert Shards([path]).tensor("b").tolist() == [1.5, -2.5]


def test_the_same_name_in_two_files_is_refused(tmp_path):
    for name in "ab":
        save_file({"w": torch.ones(2)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(TensorMismatchError, match="both in a"):
        Shards([tmp_path / "a.safetensors", tmp_path / "b.safetensors"])


@given(st.binary(max_size=200))
@example(b"")
@example(struct.pack("<Q", 2) + b"{}")
def test_no_bytes_make_the_reader_fail_in_another_way(raw):
    try:
        header = read(raw)
    except HeaderError:
        return
    assert header.file_bytes == len(raw)
