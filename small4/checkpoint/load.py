"""Weights on disk become a `Transformer`, one tensor at a time, without a second copy in memory.

`open_checkpoint` reads configs and headers only, and checks them against each other: every parameter that the config
describes must be there in its shape, and nothing else. `load_model` builds the model without memory and then gives it
the tensors; what is stored in the type asked for shares the pages of the mapped file.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from small4.checkpoint.blank import blank_model, parameter_shapes
from small4.checkpoint.configs import from_params
from small4.checkpoint.digests import KnownDigests
from small4.checkpoint.fields import Fields, read_json
from small4.checkpoint.gguf_read import GgufCheckpoint, is_gguf, open_gguf
from small4.checkpoint.hf_config import from_hf
from small4.checkpoint.inventory import Inventory, Parts, file_matrices, take_inventory
from small4.checkpoint.locate import Family, Located, locate
from small4.checkpoint.manifest import read_manifest
from small4.checkpoint.names import is_fused_experts, plain_hf_name, row_of
from small4.checkpoint.quantize import halves_to_pairs, stack_experts
from small4.checkpoint.shards import Shards
from small4.checkpoint.stored import FP8, Checkpoint, Config, Dense, Format, Fp8, Nvfp4, Stored
from small4.checkpoint.tokenizer_file import TOKENIZER_FILE, has_tokenizer
from small4.errors import ConfigError, UnsupportedModelError, VerificationError
from small4.model.config import DraftConfig, ModelConfig
from small4.model.draft_head import DraftHead
from small4.model.transformer import Transformer


def load_config(path: Path | str) -> ModelConfig:
    """The shape of the model in a directory, without reading a weight."""
    path = Path(path)
    return model_config(open_gguf(path) if is_gguf(path) else open_files(path))


def open_checkpoint(path: Path | str) -> "FileCheckpoint | GgufCheckpoint":
    """A checkpoint whose tensors are read when asked for; all of them are there, in the shapes the config asks for."""
    path = Path(path)
    if is_gguf(path):
        return open_gguf(path)
    checkpoint = open_files(path)
    checkpoint.inventory.raise_if_wrong(checkpoint.located.config_file.name)
    return checkpoint


def load_model(
    path: Path | str,
    *,
    dtype: torch.dtype | None = torch.bfloat16,
    config: ModelConfig | None = None,
    check_digests: bool = True,
) -> Transformer:
    """The model with its weights in `dtype`; None keeps the stored type, and makes bfloat16 of quantised weights.

    `config` replaces the stored one, where a file means something other than it says: a `config.json` written by
    transformers after training there wants `yarn.apply_scale`. `check_digests` reads every file once more, to compare
    it with the manifest of the save if there is one.
    """
    checkpoint = open_checkpoint(path)
    if check_digests:
        compare_digests(checkpoint)
    return build_model(checkpoint, dtype=dtype, config=config)


def build_model(
    checkpoint: "FileCheckpoint | GgufCheckpoint", *, dtype: torch.dtype | None, config: ModelConfig | None = None
) -> Transformer:
    """The model of an open checkpoint; arguments as for `load_model`."""
    model = blank_model(config or model_config(checkpoint))
    if not isinstance(model, Transformer):
        raise TypeError("the config is that of a draft head")
    _fill(model, checkpoint, dtype)
    return model


def load_draft(
    path: Path | str, *, dtype: torch.dtype | None = torch.bfloat16, check_digests: bool = True
) -> DraftHead:
    """The draft head in a directory; arguments as for `load_model`."""
    checkpoint = open_checkpoint(path)
    if check_digests:
        compare_digests(checkpoint)
    return build_draft(checkpoint, dtype=dtype)


def build_draft(checkpoint: "FileCheckpoint | GgufCheckpoint", *, dtype: torch.dtype | None) -> DraftHead:
    """The draft head of an open checkpoint; `dtype` as for `load_model`."""
    draft = blank_model(draft_config(checkpoint))
    assert isinstance(draft, DraftHead), "its config says so"
    _fill(draft, checkpoint, dtype)
    return draft


def model_config(checkpoint: "FileCheckpoint | GgufCheckpoint") -> ModelConfig:
    """The config of a whole model; ConfigError if the checkpoint is a draft head."""
    if isinstance(checkpoint.config, DraftConfig):
        where = checkpoint.files[0].parent
        raise ConfigError(f"{where} holds a draft head; load it with load_draft, beside its target model")
    return checkpoint.config


def draft_config(checkpoint: "FileCheckpoint | GgufCheckpoint") -> DraftConfig:
    """The config of a draft head; ConfigError if the checkpoint is a whole model."""
    if not isinstance(checkpoint.config, DraftConfig):
        where = checkpoint.files[0].parent
        raise ConfigError(f"{where} holds a whole model, not a draft head; load it with load_model")
    return checkpoint.config


def compare_digests(checkpoint: "FileCheckpoint | GgufCheckpoint", known: KnownDigests | None = None) -> None:
    """VerificationError if a file is not the one that was saved; nothing where no manifest is there to say so."""
    directory = checkpoint.files[0].parent
    names = [file.name for file in checkpoint.files]
    manifest = read_manifest(directory)
    if manifest is None or (isinstance(checkpoint, GgufCheckpoint) and not manifest.covers(names)):
        return
    if TOKENIZER_FILE in manifest.files and has_tokenizer(directory):
        names.append(TOKENIZER_FILE)
    problem = next(manifest.problems(names, known), None)
    if problem is not None:
        raise VerificationError(f"{directory} is damaged: {problem.where} {problem.what}. Fetch or save it again")


def _fill(model: nn.Module, checkpoint: Checkpoint, dtype: torch.dtype | None) -> None:
    if dtype is None and isinstance(checkpoint, GgufCheckpoint):
        dtype = checkpoint.dtype
    for name in checkpoint.names():
        stored = checkpoint.read(name)
        tensor = stored.to_dense(dtype)
        module, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(module), attribute, nn.Parameter(tensor))
        if not (isinstance(stored, Dense) and tensor is stored.tensor):
            checkpoint.release(name)


class FileCheckpoint:
    """A checkpoint in safetensors files, in either family's form. It may be incomplete: see `inventory`."""

    def __init__(self, located: Located, config: Config, shards: Shards) -> None:
        self.located = located
        self.files = [located.config_file, *located.weight_files]
        self.config = config
        self.shards = shards
        self.inventory: Inventory = take_inventory(config, located.family, shards)
        self.format: Format = _format(located.family, self.inventory)
        self._spelling = {plain_hf_name(name): name for name in shards.names()} if located.family == "hf" else None

    def names(self) -> list[str]:
        return list(self.inventory.present)

    def read(self, name: str) -> Stored:
        matrices = [self._read_matrix(parts) for parts in self._parts(name)]
        if self.located.family == "native" and is_fused_experts(name):
            fused = stack_experts(matrices, parameter_shapes(self.config)[name])
            self.release(name)
            return fused
        row = row_of(name)
        if self.located.family == "hf" and row is not None and row.rope_rows:
            return halves_to_pairs(matrices[0], self._vision_heads())
        return matrices[0]

    def release(self, name: str) -> None:
        for parts in self._parts(name):
            for tensor in (parts.weight, parts.packed, parts.group_scale):
                if tensor is not None and self._has(tensor):
                    self.shards.release(self._spell(tensor))

    def _parts(self, name: str) -> list[Parts]:
        return [parts for parts, _ in file_matrices(self.located.family, name, parameter_shapes(self.config)[name])]

    def _read_matrix(self, parts: Parts) -> Stored:
        if parts.packed is not None and self._has(parts.packed):
            return Nvfp4(
                self._tensor(parts.packed),
                self._tensor(str(parts.group_scale)),
                self._tensor(str(parts.global_scale)).reshape(()),
                self._scale(parts.input_scale, 2),
            )
        tensor = self._tensor(parts.weight)
        if tensor.dtype != FP8:
            return Dense(tensor)
        scale = self._scale(parts.scale, tensor.ndim)
        if scale is None:
            raise ConfigError(f"{parts.weight} has no {parts.scale}")
        return Fp8(tensor, scale, self._scale(parts.activation_scale, tensor.ndim))

    def _scale(self, name: str | None, dimensions: int) -> Tensor | None:
        """A single matrix's scale has no dimensions, whatever the file says; a stack's has one entry per matrix."""
        if name is None or not self._has(name):
            return None
        scale = self._tensor(name)
        return scale.reshape(-1, 1, 1) if dimensions == 3 else scale.reshape(())

    def _tensor(self, name: str) -> Tensor:
        return self.shards.tensor(self._spell(name))

    def _has(self, name: str) -> bool:
        return self._spell(name) in self.shards

    def _spell(self, name: str) -> str:
        return name if self._spelling is None else self._spelling.get(name, name)

    def _vision_heads(self) -> int:
        vision = None if isinstance(self.config, DraftConfig) else self.config.vision
        if vision is None:
            raise ConfigError("a model without vision has no vision tensors")
        return vision.num_attention_heads


def open_files(path: Path) -> FileCheckpoint:
    """Open without insisting that all tensors are there; `describe` and `verify` report what is not."""
    located = locate(path)
    shards = Shards(located.weight_files, located.weight_map)
    raw = read_json(located.config_file)
    names = shards.names()
    if located.family == "hf":
        has_output = any(plain_hf_name(name) == "lm_head.weight" for name in names)
        config: Config = from_hf(raw, has_output=has_output)
    else:
        config = from_params(raw, is_draft="eagle_linear.weight" in names)
    checkpoint = FileCheckpoint(located, config, shards)
    _check_quantisation(raw, located.family, checkpoint.inventory)
    return checkpoint


def _format(family: Family, inventory: Inventory) -> Format:
    if inventory.has_nvfp4:
        return "nvfp4"
    if inventory.has_fp8:
        return "hf-fp8" if family == "hf" else "native-fp8"
    if inventory.dense_types == {torch.float32}:
        return "hf-f32" if family == "hf" else "native-f32"
    return "hf-bf16" if family == "hf" else "native-bf16"


def _check_quantisation(raw: Mapping[str, Any], family: Family, inventory: Inventory) -> None:
    """The config's word on quantisation against the types of the tensors."""
    where = "config.json" if family == "hf" else "params.json"
    fields = Fields(raw, where)
    section, fp8 = fields.section("quantization_config"), False
    if section is not None:
        method = section.raw.get("quant_method")
        fp8 = method == "fp8"
        known = ("fp8",) if family == "hf" else ("fp8", "compressed-tensors")
        if method not in known:
            raise UnsupportedModelError(f"{where} asks for quant_method {method!r}; small4 reads {', '.join(known)}")
        section.expect("weight_block_size", None, default=None)
    official = fields.section("quantization") if family == "native" else None
    if official is not None:
        official.expect("qformat_weight", "fp8_e4m3", default="fp8_e4m3")
        fp8 = True
    if fp8 and not inventory.has_fp8:
        raise ConfigError(f"{where} says that weights are FP8, but no tensor is: it belongs to another checkpoint")
    if family == "hf" and inventory.has_fp8 and not fp8:
        raise ConfigError(f"{where} has no FP8 quantization_config, but tensors are FP8: it belongs to another one")
