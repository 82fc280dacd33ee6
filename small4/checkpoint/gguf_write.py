"""Write a model as GGUF: a text file of architecture `mistral4`, and a projector (mmproj) file if it sees images.

Keys and tensors follow what llama.cpp's converters write, and equal theirs but for fused experts and the softmax scale
(docs/decisions/0006-gguf-softmax-scale.md). llama.cpp as in llama-cpp-python 0.3.36 runs the text files of tiny models:
tests/checkpoint/test_gguf_llama_cpp.py compares logits and tokens where that package is installed. Its image encoder
was run on projector files once, by hand, and agreed. Neither has been tried with the full model. A chat template is
not written: llama.cpp needs one by --chat-template-file.

Vectors and the gate stay float32, and so do the image path's convolution and merger, whose BF16 llama.cpp cannot run.
Matrices become BF16, or Q8_0 where a row is a multiple of 32 values.
"""

import os
import shutil
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, Protocol

import torch
from gguf.constants import GGMLQuantizationType
from gguf.quants import quantize
from torch import Tensor

from small4.checkpoint.blank import parameter_shapes
from small4.checkpoint.gguf_header import DEFAULT_ALIGNMENT, SCALARS, STRING, TENSOR_TYPES, TYPE_NUMBERS
from small4.checkpoint.gguf_keys import PROJECTOR_ARCHITECTURE, TEXT_ARCHITECTURES, projector_keys, text_keys
from small4.checkpoint.gguf_tokenizer import tokenizer_keys
from small4.checkpoint.names import gguf_names, row_of
from small4.checkpoint.stored import Stored
from small4.errors import SaveError
from small4.model.config import DraftConfig, ModelConfig

Kind = Literal["gguf-bf16", "gguf-q8_0"]
KINDS: dict[Kind, tuple[str, int]] = {"gguf-bf16": ("BF16", 32), "gguf-q8_0": ("Q8_0", 7)}  # type, general.file_type
ALWAYS_F32 = ("gate.weight", "patch_conv.weight", "merging_layer.weight")
IMG_BREAK = "v.token_embd.img_break"
CHUNK_VALUES = 16 * 1024 * 1024  # converted at once
U32, I32, F32, BOOL, ARRAY, U64 = 4, 5, 6, 7, 9, 10  # GGUF's value types

Value = bool | int | float | str | Sequence[float] | Sequence[int] | Sequence[str]
Keys = dict[str, Value]


class Source(Protocol):
    """What is written: a checkpoint of any format, or a model in memory that offers the same."""

    @property
    def config(self) -> ModelConfig | DraftConfig: ...

    def read(self, name: str) -> Stored: ...


@dataclass(frozen=True, slots=True)
class _Output:
    """One tensor to be written: part `part` of a parameter."""

    name: str
    type_name: str
    shape: tuple[int, ...]
    official: str
    part: int

    @property
    def num_bytes(self) -> int:
        _, block_values, block_bytes = TENSOR_TYPES[TYPE_NUMBERS[self.type_name]]
        return torch.Size(self.shape).numel() // block_values * block_bytes


def write_gguf(source: Source, path: Path, kind: Kind, *, tokenizer: Path | None = None) -> list[Path]:
    """Write `path` (a .gguf file, or a directory for model.gguf) and `mmproj-` + its name beside; returns both paths.

    Each file appears under its name when it is complete. `tokenizer` is the tekken.json; without one the file holds no
    vocabulary, and other programs cannot turn text into tokens.
    """
    text = path if path.suffix == ".gguf" else path / "model.gguf"
    config = source.config
    if isinstance(config, DraftConfig):
        raise SaveError("GGUF has no place for a draft head; save it in its native format")
    text.parent.mkdir(parents=True, exist_ok=True)
    keys: Keys = {**_general("model", TEXT_ARCHITECTURES[0], kind), **text_keys(config)}
    if tokenizer is None:
        keys["tokenizer.ggml.model"] = "no_vocab"
    else:
        keys.update(tokenizer_keys(tokenizer, config.vocab_size))
    outputs = list(_outputs(config, kind))
    written = [text]
    _write_file(source, config, text, keys, [output for output in outputs if not _is_projector(output)])
    if config.vision is not None:
        projector = text.with_name(f"mmproj-{text.name}")
        img_break = _Output(IMG_BREAK, "F32", (config.dim,), "tok_embeddings.weight", 0)
        keys = {**_general("mmproj", PROJECTOR_ARCHITECTURE, kind), **projector_keys(config, config.vision)}
        _write_file(
            source, config, projector, keys, [*(output for output in outputs if _is_projector(output)), img_break]
        )
        written.append(projector)
    if tokenizer is not None and tokenizer.parent != text.parent:
        shutil.copyfile(tokenizer, text.with_name("tekken.json"))  # small4 itself reads this one
    return written


def _general(role: str, architecture: str, kind: Kind) -> Keys:
    return {
        "general.architecture": architecture,
        "general.type": role,
        "general.name": "small4",
        "general.file_type": KINDS[kind][1],
        "general.quantization_version": 2,
    }


def _is_projector(output: _Output) -> bool:
    row = row_of(output.official)
    return row is not None and row.projector_file


def _outputs(config: ModelConfig, kind: Kind) -> Iterator[_Output]:
    """The tensors to be written, in the order of the parameters."""
    for official, whole in parameter_shapes(config).items():
        names, shapes = gguf_names(official), [whole]
        if len(names) == 2:
            shapes = [
                (config.n_heads, config.kv_lora_rank, config.qk_nope_head_dim),
                (config.n_heads, config.v_head_dim, config.kv_lora_rank),
            ]
        for part, (name, shape) in enumerate(zip(names, shapes, strict=True)):
            yield _Output(name, _type_for(official, shape, kind), shape, official, part)


def _type_for(official: str, shape: tuple[int, ...], kind: Kind) -> str:
    if len(shape) == 1 or official.endswith(ALWAYS_F32):
        return "F32"
    wanted, _ = KINDS[kind]
    _, block_values, _ = TENSOR_TYPES[TYPE_NUMBERS[wanted]]
    return wanted if shape[-1] % block_values == 0 else "BF16"


def _write_file(source: Source, config: ModelConfig, path: Path, keys: Keys, outputs: Sequence[_Output]) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(_header(keys, outputs))
            for output in outputs:
                _pad(file)
                _write_tensor(file, output, _part(source, config, output))
            _pad(file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise SaveError(f"{path} could not be written ({error.strerror}); what stood there is untouched") from error
    finally:
        partial.unlink(missing_ok=True)


def _part(source: Source, config: ModelConfig, output: _Output) -> Tensor:
    """The numbers of one tensor, in the parameter's own type."""
    whole = source.read(output.official).to_dense()
    if output.name == IMG_BREAK and config.vision is not None:
        return whole[min(config.vision.image_break_token_id, config.vocab_size - 1)]
    if len(gguf_names(output.official)) == 1:
        return whole
    heads = whole.view(config.n_heads, -1, config.kv_lora_rank)
    nope = config.qk_nope_head_dim
    return heads[:, :nope].transpose(1, 2) if output.part == 0 else heads[:, nope:]


def _write_tensor(file: BinaryIO, output: _Output, values: Tensor) -> None:
    """Convert and write in pieces of whole rows, so that a large tensor is not held twice."""
    if tuple(values.shape) != output.shape:
        raise SaveError(f"{output.official} is {list(values.shape)}, the config asks for {list(output.shape)}")
    rows = values.reshape(-1, output.shape[-1])
    for chunk in rows.split(max(1, CHUNK_VALUES // output.shape[-1])):
        if output.type_name == "BF16":
            file.write(chunk.to(torch.bfloat16).contiguous().view(torch.uint8).numpy().data)
        else:
            exact = chunk.to(torch.float32).contiguous().numpy()
            file.write(quantize(exact, GGMLQuantizationType[output.type_name]).data)


def _header(keys: Keys, outputs: Sequence[_Output]) -> bytes:
    parts = [struct.pack("<4sIQQ", b"GGUF", 3, len(outputs), len(keys))]
    parts += [_string(key) + _value(value) for key, value in keys.items()]
    offset = 0
    for output in outputs:
        dimensions = output.shape[::-1]
        record = struct.pack(
            f"<I{len(dimensions)}QIQ", len(dimensions), *dimensions, TYPE_NUMBERS[output.type_name], offset
        )
        parts.append(_string(output.name) + record)
        offset += -(-output.num_bytes // DEFAULT_ALIGNMENT) * DEFAULT_ALIGNMENT
    return b"".join(parts)


def _pad(file: BinaryIO) -> None:
    file.write(bytes(-file.tell() % DEFAULT_ALIGNMENT))


def _string(text: str) -> bytes:
    encoded = text.encode("utf-8")
    return struct.pack("<Q", len(encoded)) + encoded


def _value(value: Value) -> bytes:
    """A value with its type before it."""
    if not isinstance(value, str) and isinstance(value, Sequence):
        kind = STRING if value and isinstance(value[0], str) else F32 if value and isinstance(value[0], float) else I32
        return struct.pack("<IIQ", ARRAY, kind, len(value)) + b"".join(_scalar(kind, item) for item in value)
    if isinstance(value, bool):
        kind = BOOL
    elif isinstance(value, int):
        kind = U32 if 0 <= value < 1 << 32 else U64
    else:
        kind = STRING if isinstance(value, str) else F32
    return struct.pack("<I", kind) + _scalar(kind, value)


def _scalar(kind: int, value: bool | int | float | str) -> bytes:
    return _string(value) if isinstance(value, str) else struct.pack(SCALARS[kind], value)
