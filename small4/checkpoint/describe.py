"""What is in a checkpoint, read from its config and headers alone: shape of the model, sizes, what is missing."""

import dataclasses
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from small4.checkpoint.blank import parameter_shapes
from small4.checkpoint.gguf_read import is_gguf, open_gguf_files
from small4.checkpoint.header import DTYPE_NAMES
from small4.checkpoint.load import open_files
from small4.checkpoint.manifest import MANIFEST
from small4.checkpoint.names import is_fused_experts, row_of
from small4.checkpoint.stored import Config, Format
from small4.checkpoint.tokenizer_file import has_tokenizer, tokenizer_error
from small4.model.config import DraftConfig


@dataclass(frozen=True, slots=True)
class Description:
    """What `small4 show` prints."""

    path: Path
    format: Format
    config: Config
    files: dict[str, int]  # weight files and their bytes
    num_tensors: int  # in the files; experts and scales may lie apart
    bytes_by_type: dict[str, int]
    parameters: int  # that the config describes
    active_parameters: int  # that one text token meets, without the embedding and output tables
    parameters_by_component: dict[str, int]
    missing: tuple[str, ...]  # tensors that the config asks for and the files lack, in the files' own names
    unexpected: tuple[str, ...]
    mismatched: tuple[str, ...]  # of another shape or type
    has_tokenizer: bool  # there is a tekken.json
    tokenizer_error: str | None  # why the model cannot chat, a missing tekken.json included
    has_manifest: bool
    notes: tuple[str, ...] = ()  # how the files were read, where that is not plain

    @property
    def bytes(self) -> int:
        return sum(self.files.values())

    @property
    def is_complete(self) -> bool:
        return not (self.missing or self.unexpected or self.mismatched)

    @property
    def is_draft(self) -> bool:
        return isinstance(self.config, DraftConfig)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        config = dataclasses.asdict(self.config)
        return values | {"path": str(self.path), "config": config, "bytes": self.bytes, "is_complete": self.is_complete}


def describe(path: Path | str) -> Description:
    """Look without reading weights; an incomplete checkpoint is described too."""
    path = Path(path)
    if is_gguf(path):
        return _describe_gguf(path)
    checkpoint = open_files(path)
    shards, inventory, config = checkpoint.shards, checkpoint.inventory, checkpoint.config
    bytes_by_type: Counter[str] = Counter()
    for name in shards.names():
        entry = shards.entry(name)
        bytes_by_type[DTYPE_NAMES[entry.dtype]] += entry.num_bytes
    by_component = parameters_by_component(config)
    return Description(
        path=path,
        format=checkpoint.format,
        config=config,
        files={file.name: file.stat().st_size for file in checkpoint.located.weight_files},
        num_tensors=len(shards.names()),
        bytes_by_type=dict(bytes_by_type),
        parameters=sum(by_component.values()),
        active_parameters=active_parameters(config),
        parameters_by_component=by_component,
        missing=tuple(inventory.missing),
        unexpected=tuple(inventory.unexpected),
        mismatched=tuple(inventory.wrong),
        has_tokenizer=has_tokenizer(path),
        tokenizer_error=_tokenizer_error(path, config),
        has_manifest=(path / MANIFEST).is_file(),
    )


def _describe_gguf(path: Path) -> Description:
    checkpoint = open_gguf_files(path)
    by_component = parameters_by_component(checkpoint.config)
    directory = checkpoint.path.parent
    return Description(
        path=path,
        format=checkpoint.format,
        config=checkpoint.config,
        files={file.name: file.stat().st_size for file in checkpoint.files},
        num_tensors=len(checkpoint.types()),
        bytes_by_type=checkpoint.bytes_by_type(),
        parameters=sum(by_component.values()),
        active_parameters=active_parameters(checkpoint.config),
        parameters_by_component=by_component,
        missing=tuple(checkpoint.inventory.missing),
        unexpected=tuple(checkpoint.inventory.unexpected),
        mismatched=tuple(checkpoint.inventory.wrong),
        has_tokenizer=has_tokenizer(path),
        tokenizer_error=_tokenizer_error(path, checkpoint.config),
        has_manifest=(directory / MANIFEST).is_file(),
        notes=checkpoint.notes,
    )


def _tokenizer_error(path: Path, config: Config) -> str | None:
    error = tokenizer_error(path, config)
    return None if error is None else str(error)


def parameters_by_component(config: Config) -> dict[str, int]:
    """Numbers of parameters, in the order in which a token meets them."""
    counts: Counter[str] = Counter()
    for name, shape in parameter_shapes(config).items():
        row = row_of(name)
        counts["other" if row is None else row.component] += math.prod(shape)
    return dict(counts)


def active_parameters(config: Config) -> int:
    """Parameters that take part in one text token, without the two vocabulary tables and the image path."""
    total = 0
    for name, shape in parameter_shapes(config).items():
        row = row_of(name)
        if row is None or row.component in ("embedding", "output", "vision", "projector"):
            continue
        size = math.prod(shape)
        if is_fused_experts(name) and not isinstance(config, DraftConfig) and config.moe is not None:
            size = size // config.moe.num_experts * config.moe.num_experts_per_tok
        total += size
    return total
