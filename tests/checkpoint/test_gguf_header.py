"""A GGUF header is believed only after its checks: a cut or a flipped bit ends in a typed error or in equal tensors."""

import struct
import tracemalloc
from pathlib import Path

import pytest
import torch

from small4.checkpoint.gguf_header import MAX_STRING_BYTES, parse_header, read_header
from small4.checkpoint.gguf_keys import config_of
from small4.checkpoint.gguf_read import GgufCheckpoint, open_gguf
from small4.checkpoint.gguf_write import write_gguf
from small4.errors import CheckpointError, CheckpointNotFoundError, ConfigError, HeaderError
from small4.model.config import MoeConfig
from tests.checkpoint.gguf_models import InMemory, tiny_config, tiny_model

TYPED = (CheckpointError, ConfigError)


@pytest.fixture(scope="module")
def small_file(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """One layer with experts, in a few kilobytes."""
    config = tiny_config(
        dim=8, n_layers=1, n_heads=1, q_lora_rank=4, kv_lora_rank=4, qk_nope_head_dim=4, qk_rope_head_dim=2,
        v_head_dim=4, hidden_dim=8, vocab_size=8, vision=None,
        moe=MoeConfig(num_experts=2, num_experts_per_tok=1, expert_hidden_dim=4),
    )  # fmt: skip
    directory = tmp_path_factory.mktemp("gguf")
    write_gguf(InMemory(tiny_model(config)), directory, "gguf-bf16")
    return (directory / "model.gguf").read_bytes()


def tensors(checkpoint: GgufCheckpoint) -> dict[str, torch.Tensor]:
    return {name: checkpoint.read(name).tensor.clone() for name in checkpoint.names()}


def test_a_file_cut_at_any_byte_is_refused(small_file: bytes, tmp_path: Path) -> None:
    records = parse_header(tmp_path, small_file).tensors.values()
    for length in range(max(record.offset + record.num_bytes for record in records)):
        with pytest.raises(HeaderError):
            parse_header(tmp_path, small_file[:length])


@pytest.mark.parametrize(
    "bits_per_byte", [1, pytest.param(8, marks=pytest.mark.slow)], ids=["one bit of each byte", "every bit"]
)
def test_a_flipped_bit_in_the_header_is_refused_or_changes_no_tensor(
    small_file: bytes, tmp_path: Path, bits_per_byte: int
) -> None:
    path = tmp_path / "flipped.gguf"
    path.write_bytes(small_file)
    header, original = parse_header(path, small_file), tensors(open_gguf(path))
    config, _ = config_of(header)
    num_refused = 0
    end = min(record.offset for record in header.tensors.values())
    for byte in range(end):
        for bit in range(8) if bits_per_byte == 8 else [byte * 3 % 8]:
            content = bytearray(small_file)
            content[byte] ^= 1 << bit
            try:
                flipped = parse_header(path, bytes(content))
                if (flipped.tensors, config_of(flipped)[0]) != (header.tensors, config):
                    path.write_bytes(content)
                    read = tensors(open_gguf(path))
                    assert read.keys() == original.keys()
                    assert all(torch.equal(read[name], original[name]) for name in read)
            except TYPED:
                num_refused += 1
    assert num_refused > bits_per_byte * end / 2


def lying(small_file: bytes, path: Path, at: int, layout: str, value: int) -> Path:
    content = bytearray(small_file)
    struct.pack_into(layout, content, at, value)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("at", "layout", "value", "reason"),
    [
        (0, "<I", 0, "not with GGUF"),
        (4, "<I", 1, "version 1"),
        (4, "<I", 3 << 24, "big-endian"),
        (8, "<Q", 2**63, "tensors, the limit"),
        (8, "<Q", 150_000, "breaks off|not UTF-8|limit|type|dimensions"),
        (16, "<Q", 2**40, "keys, the limit"),
        (16, "<Q", 9_999, "breaks off|not UTF-8|limit|type|twice"),
        (24, "<Q", 2**64 - 1, "limit is 512"),
        (24, "<Q", 513, "limit is 512"),
    ],
)
def test_a_lying_count_or_length_is_named(
    small_file: bytes, tmp_path: Path, at: int, layout: str, value: int, reason: str
) -> None:
    with pytest.raises(HeaderError, match=reason):
        read_header(lying(small_file, tmp_path / "x.gguf", at, layout, value))


def record_field(content: bytes, name: str) -> int:
    """Where the record of a tensor goes on after its name."""
    encoded = name.encode()
    return content.index(struct.pack("<Q", len(encoded)) + encoded) + 8 + len(encoded)


@pytest.mark.parametrize(
    ("field", "layout", "value", "reason"),
    [
        (0, "<I", 0, "dimensions"),
        (0, "<I", 2**32 - 1, "dimensions"),
        (4, "<Q", 2**62, "starts at byte|ends at byte"),
        (4, "<Q", 0, "cannot be"),
        (20, "<I", 200, "impossible type"),
        (24, "<Q", 2**63, "starts at byte|ends at byte"),
        (24, "<Q", 7, "not aligned"),
        (24, "<Q", 32, "starts at byte"),  # over its neighbour
    ],
)
def test_a_lying_tensor_record_is_named(
    small_file: bytes, tmp_path: Path, field: int, layout: str, value: int, reason: str
) -> None:
    at = record_field(small_file, "blk.0.attn_q_a.weight") + field
    with pytest.raises(HeaderError, match=reason):
        read_header(lying(small_file, tmp_path / "x.gguf", at, layout, value))


def test_bytes_after_the_last_tensor_are_refused(small_file: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(small_file + bytes(64))
    with pytest.raises(HeaderError, match="64 bytes follow"):
        read_header(tmp_path / "x.gguf")


def test_a_huge_claim_costs_no_memory(small_file: bytes, tmp_path: Path) -> None:
    """The file is a few kilobytes, whatever it claims: so is what reading its header takes."""
    key = struct.pack("<Q", 1) + b"k"
    claims = [
        struct.pack("<I", 8) + struct.pack("<Q", MAX_STRING_BYTES) + b"x",  # a string of 16 MB
        struct.pack("<IIQ", 9, 8, 16_000_000) + b"x",  # an array of 16 million strings
        struct.pack("<IIQ", 9, 10, 16_000_000) + b"x",  # an array of 128 MB
    ]
    for claim in claims:
        path = tmp_path / "x.gguf"
        path.write_bytes(struct.pack("<4sIQQ", b"GGUF", 3, 0, 1) + key + claim)
        tracemalloc.start()
        with pytest.raises(HeaderError, match="breaks off"):
            read_header(path)
        assert tracemalloc.get_traced_memory()[1] < 100_000
        tracemalloc.stop()


def test_more_layers_than_tensors_end_before_anything_is_built(small_file: bytes, tmp_path: Path) -> None:
    key = b"mistral4.block_count"
    at = small_file.index(key) + len(key) + 4
    with pytest.raises(CheckpointError, match="block_count 1000"):
        open_gguf(lying(small_file, tmp_path / "x.gguf", at, "<I", 1_000))


@pytest.mark.parametrize("key", ["embedding_length", "vocab_size", "expert_count", "rope.dimension_count"])
@pytest.mark.parametrize("value", [0, 1, 2**24, 2**32 - 1])
def test_a_lying_width_is_refused(small_file: bytes, tmp_path: Path, key: str, value: int) -> None:
    name = f"mistral4.{key}".encode()
    at = small_file.index(name) + len(name) + 4
    with pytest.raises(TYPED):
        open_gguf(lying(small_file, tmp_path / "x.gguf", at, "<I", value))


def test_a_file_that_is_missing_or_empty_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(CheckpointNotFoundError, match="no file"):
        read_header(tmp_path / "x.gguf")
    (tmp_path / "x.gguf").touch()
    with pytest.raises(HeaderError, match="breaks off"):
        read_header(tmp_path / "x.gguf")
