"""Read a model from GGUF: a text file, in one part or several, and the projector (mmproj) file beside it.

Tensors come one at a time from the memory map, under the model's own names. Three things are stored differently: the
two halves of wkv_b lie apart, and its key half transposed per head; w1 and w3 of the experts may lie apart; quantised
types are blocks that the `gguf` package turns into float32.
"""

import mmap
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from gguf.constants import GGMLQuantizationType
from gguf.quants import dequantize
from numpy.typing import NDArray
from torch import Tensor

from small4.checkpoint.blank import parameter_shapes
from small4.checkpoint.gguf_header import GgufHeader, TensorRecord, read_header
from small4.checkpoint.gguf_keys import config_of
from small4.checkpoint.inventory import Inventory
from small4.checkpoint.names import gguf_names
from small4.checkpoint.stored import Dense
from small4.errors import CheckpointNotFoundError, HeaderError, TensorMismatchError
from small4.model.config import ModelConfig

PLAIN_TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
# Derived from other tensors: frequency tables, and the embedding of [IMG_BREAK] for programs that insert it alone.
DERIVED = re.compile(r"rope_freqs\.weight|v\.token_embd\.img_break|blk\.\d+\.attn_rot_embd\.weight")
PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")

Bytes = NDArray[np.uint8]


class GgufCheckpoint:
    """One model in GGUF; maps its files, reads a tensor when asked for it. It may be incomplete: see `inventory`."""

    def __init__(self, text: list[GgufHeader], projector: GgufHeader | None) -> None:
        records = [(record, header.path) for header in [*text, *([projector] if projector else [])]
                   for record in header.tensors.values()]  # fmt: skip
        self._records = {record.name: record for record, _ in records}
        self._files = {record.name: path for record, path in records}
        if len(self._records) < len(records):
            raise HeaderError(f"{text[0].path}: a tensor is in several of its files; fetch or convert them again")
        self._maps: dict[Path, mmap.mmap] = {}
        merged = GgufHeader(text[0].path, text[0].values, {k: r for h in text for k, r in h.tensors.items()})
        self.path = text[0].path
        self.config, self.notes = config_of(merged, projector)  # notes: what a user should know
        self._shapes = _expected_shapes(self.config, self._records, self.path)
        self.files = [header.path for header in [*text, *([projector] if projector else [])]]
        self.inventory = self._take_inventory()

    def names(self) -> list[str]:
        """The model's parameters that the files hold whole, by their official names."""
        return list(self.inventory.present)

    @property
    def format(self) -> Literal["gguf-bf16", "gguf-q8_0"]:
        """The nearest of the formats that can be written; `types` tells all."""
        return "gguf-bf16" if set(self.types().values()) <= set(PLAIN_TYPES) else "gguf-q8_0"

    def release(self, name: str) -> None:
        """Give back the memory behind what `read` returned."""
        for part in self._parts(name):
            record, data = self._records[part], self._mapped(self._files[part])
            first = -(-record.offset // mmap.PAGESIZE) * mmap.PAGESIZE
            if first < record.offset + record.num_bytes:
                data.madvise(mmap.MADV_DONTNEED, first, record.offset + record.num_bytes - first)

    @property
    def dtype(self) -> torch.dtype:
        """The type that a model of it computes in: vectors and gates are float32 in every file, so matrices decide."""
        return torch.float32 if set(self.types().values()) <= {"F32", "F16"} else torch.bfloat16

    def types(self) -> dict[str, str]:
        """GGML type of every tensor, by its name in the file."""
        return {name: record.type_name for name, record in self._records.items()}

    def bytes_by_type(self) -> dict[str, int]:
        """Bytes of the weights, by GGML type."""
        counts: Counter[str] = Counter()
        for record in self._records.values():
            counts[record.type_name] += record.num_bytes
        return dict(counts)

    def read(self, name: str) -> Dense:
        """One parameter. Plain types are views of the file; quantised ones become float32."""
        if name not in self._shapes:
            raise TensorMismatchError(f"{self.path} has no parameter {name!r}")
        parts = [self._tensor(self._records[part]) for part in self._parts(name)]
        if len(parts) == 1:
            return Dense(parts[0].view(self._shapes[name]))
        if name.endswith(".wkv_b.weight"):
            parts[0] = parts[0].transpose(1, 2)
        promoted = [part.to(torch.promote_types(parts[0].dtype, parts[1].dtype)) for part in parts]
        return Dense(torch.cat(promoted, dim=1).view(self._shapes[name]))

    def _parts(self, name: str) -> tuple[str, ...]:
        """The file's tensors that make up a parameter, in one of the ways that files have it."""
        return next((parts for parts in _ways(name) if all(part in self._records for part in parts)), ())

    def _tensor(self, record: TensorRecord) -> Tensor:
        mapped = self._mapped(self._files[record.name])
        data: Bytes = np.frombuffer(mapped, np.uint8, record.num_bytes, record.offset)
        plain = PLAIN_TYPES.get(record.type_name)
        if plain is not None:
            return torch.from_numpy(data).view(plain).view(record.shape)
        rows = data.reshape(*record.shape[:-1], -1)
        return torch.from_numpy(dequantize(rows, GGMLQuantizationType[record.type_name])).view(record.shape)

    def _mapped(self, path: Path) -> mmap.mmap:
        if path not in self._maps:
            with path.open(
                "rb"
            ) as file:  # copy-on-write, because torch wants writable memory; the file is never changed
                self._maps[path] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        return self._maps[path]

    def _take_inventory(self) -> Inventory:
        """Compare the tensors with those that the config asks for."""
        found, used = Inventory(), set[str]()
        for name, shape in self._shapes.items():
            parts = self._parts(name)
            used.update(parts)
            shapes = _part_shapes(name, shape, parts, self.config)
            for part, expected in zip(parts, shapes, strict=True):
                if self._records[part].shape != expected:
                    actual = list(self._records[part].shape)
                    found.wrong.append(f"{part} (is {actual}, the keys ask for {list(expected)})")
            if not parts:
                found.missing += [part for part in gguf_names(name) if part not in self._records]
            elif all(self._records[part].shape == expected for part, expected in zip(parts, shapes, strict=True)):
                found.present.append(name)
            used.update(gguf_names(name))
        found.unexpected = [name for name in self._records if name not in used and not DERIVED.fullmatch(name)]
        return found


def open_gguf(path: Path, mmproj: Path | None = None) -> GgufCheckpoint:
    """Open a text file, or a directory that holds one; the projector is looked for beside it unless given."""
    checkpoint = open_gguf_files(path, mmproj)
    checkpoint.inventory.raise_if_wrong(f"the keys of {checkpoint.path.name}")
    return checkpoint


def open_gguf_files(path: Path, mmproj: Path | None = None) -> GgufCheckpoint:
    """Open without insisting that all tensors are there."""
    path = _text_file(path) if path.is_dir() else path
    text = [read_header(part) for part in _all_parts(path)]
    count = text[0].values.get("split.count", 1)
    if count != len(text) and count != 0:
        raise HeaderError(f"{path} says that it has {count} parts, there are {len(text)}; fetch the others")
    projector = mmproj or _projector_beside(path)
    return GgufCheckpoint(text, None if projector is None else read_header(projector))


def is_gguf(path: Path) -> bool:
    """Whether `open_gguf` is the way to open it: a GGUF file, or a directory with GGUF files and no safetensors."""
    if path.is_dir():
        return any(path.glob("*.gguf")) and not any(path.glob("*.safetensors"))
    return path.suffix == ".gguf"


def _text_file(directory: Path) -> Path:
    files = [path for path in sorted(directory.glob("*.gguf")) if not path.name.startswith("mmproj")]
    firsts = [path for path in files if not (match := PART.fullmatch(path.name)) or match[2] == "00001"]
    if len(firsts) != 1:
        found = ", ".join(path.name for path in firsts) or "none"
        raise CheckpointNotFoundError(
            f"{directory} must hold one GGUF text model, found: {found}; name the file itself"
        )
    return firsts[0]


def _all_parts(path: Path) -> Iterator[Path]:
    """The files of a model that was split, given any of them."""
    match = PART.fullmatch(path.name)
    if match is None:
        yield path
        return
    stem, _, count = match.groups()
    for number in range(1, int(count) + 1):
        part = path.with_name(f"{stem}-{number:05}-of-{count}.gguf")
        if not part.is_file():
            raise CheckpointNotFoundError(f"{part} is missing; fetch all {int(count)} parts")
        yield part


def _projector_beside(path: Path) -> Path | None:
    named = path.with_name(f"mmproj-{path.name}")
    if named.is_file():
        return named
    others = sorted(path.parent.glob("mmproj*.gguf"))
    texts = [file for file in path.parent.glob("*.gguf") if not file.name.startswith("mmproj")]
    # Among several models it could be anyone's.
    return others[0] if len(others) == 1 and len({PART.sub(r"\1", file.name) for file in texts}) == 1 else None


def _expected_shapes(config: ModelConfig, records: dict[str, TensorRecord], path: Path) -> dict[str, tuple[int, ...]]:
    """Parameters that the config asks for. The layers are counted first: no loop runs as long as a file claims."""
    counts = [(config.n_layers, "blk"), (config.vision.num_hidden_layers if config.vision else 0, "v.blk")]
    for claimed, prefix in counts:
        present = {name.split(".")[prefix.count(".") + 1] for name in records if name.startswith(f"{prefix}.")}
        if claimed != len(present):
            raise TensorMismatchError(
                f"{path} says block_count {claimed}, it has tensors of {len(present)} {prefix} blocks"
            )
    try:
        return parameter_shapes(config)
    except (RuntimeError, OverflowError, ZeroDivisionError) as error:
        raise TensorMismatchError(f"{path}: its keys describe tensors beyond all sizes ({error})") from error


def _ways(name: str) -> Iterator[tuple[str, ...]]:
    """The ways in which files hold a parameter, the usual one first."""
    names = gguf_names(name)
    yield names
    if name.endswith(".experts.w13"):
        yield (names[0].replace("gate_up_exps", "gate_exps"), names[0].replace("gate_up_exps", "up_exps"))
    if name.endswith(".wkv_b.weight"):
        yield (names[0].replace("attn_k_b", "attn_kv_b"),)


def _part_shapes(
    name: str, shape: tuple[int, ...], parts: tuple[str, ...], config: ModelConfig
) -> list[tuple[int, ...]]:
    if len(parts) < 2:
        return [shape] * len(parts)
    if name.endswith(".experts.w13"):
        experts, both, width = shape
        return [(experts, both // 2, width)] * 2
    return [
        (config.n_heads, config.kv_lora_rank, config.qk_nope_head_dim),
        (config.n_heads, config.v_head_dim, config.kv_lora_rank),
    ]
