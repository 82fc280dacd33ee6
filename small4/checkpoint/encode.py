"""What one parameter becomes in a file of a given format: the tensors, under their names.

    hf-*       one tensor per parameter; FP8 experts fused, one scale per expert
    native-*   routed experts apart
    *-fp8      attention matrices, all experts and dense feed-forwards (and the draft head's eagle_linear) are e4m3 with
               bfloat16 scales; embeddings, output, norms, gate, vision and projector stay bfloat16
    nvfp4      routed and shared experts only; all else stays bfloat16

What is quantised already passes through with its codes as they are wherever the target has a place for its scales.
"""

from collections.abc import Iterator, Mapping
from functools import lru_cache

import torch
from torch import Tensor

from small4.checkpoint.blank import Shape, parameter_shapes
from small4.checkpoint.inventory import Parts, hf_parts, native_parts
from small4.checkpoint.names import HfStyle, Row, expert_names, hf_name, is_fused_experts, row_of
from small4.checkpoint.quantize import (
    ScaleShape,
    pairs_to_halves,
    quantize_fp8,
    quantize_nvfp4,
    with_bfloat16_scales,
    with_shared_scale,
)
from small4.checkpoint.stored import FP8, NVFP4_GROUP, Config, Dense, Format, Fp8, Nvfp4, Stored
from small4.errors import ConfigError, UnsupportedModelError
from small4.model.config import DraftConfig

FILE_FORMATS: tuple[Format, ...] = (
    "hf-bf16", "hf-f32", "hf-fp8", "native-bf16", "native-f32", "native-fp8", "nvfp4",
)  # fmt: skip
ActivationScales = Mapping[str, float | Tensor]  # parameter -> one for all of it, or one per expert

Tensors = Iterator[tuple[str, Tensor]]


def encode(
    name: str, stored: Stored, config: Config, format: Format, activation_scales: ActivationScales | None = None
) -> Tensors:
    """The tensors that hold parameter `name` in a file of `format`.

    Input scales of FP8 and NVFP4 come from `activation_scales`, else from what is stored already, else they are 1.
    """
    row = row_of(name)
    if row is None:
        raise UnsupportedModelError(f"{name} is no parameter of this architecture")
    given = None if activation_scales is None else activation_scales.get(name)
    if format == "nvfp4" and row.nvfp4:
        return _encode_nvfp4(name, stored, given)
    if format in ("hf-fp8", "native-fp8") and row.fp8:
        return _encode_fp8(name, stored, config, format == "hf-fp8", given)
    dense = stored.to_dense(torch.float32 if format.endswith("-f32") else torch.bfloat16)
    return _encode_dense(name, row, dense, config, format.startswith("hf-"))


@lru_cache(maxsize=1)
def file_layout(config: Config, format: Format) -> dict[str, list[tuple[str, Tensor]]]:
    """For every parameter its tensors in a file of `format`, without memory: names, types and shapes only."""
    shapes = parameter_shapes(config)
    return {name: list(encode(name, _blank(name, shape, format), config, format)) for name, shape in shapes.items()}


def _blank(name: str, shape: Shape, format: Format) -> Stored:
    """A parameter without memory, quantised already if `format` quantises it: computing codes of nothing is slow."""

    def empty(dtype: torch.dtype, *sizes: int) -> Tensor:
        return torch.empty(sizes, dtype=dtype, device="meta")

    row = row_of(name)
    scales = (shape[0], 1, 1) if is_fused_experts(name) else ()
    if format == "nvfp4" and row is not None and row.nvfp4:
        if shape[-1] % NVFP4_GROUP:
            raise ConfigError(f"NVFP4 needs rows of a multiple of {NVFP4_GROUP}; those of {name} have {shape[-1]}")
        packed, scale = (
            empty(torch.uint8, *shape[:-1], shape[-1] // 2),
            empty(FP8, *shape[:-1], shape[-1] // NVFP4_GROUP),
        )
        return Nvfp4(packed, scale, empty(torch.float32, *scales))
    if format in ("hf-fp8", "native-fp8") and row is not None and row.fp8:
        return Fp8(empty(FP8, *shape), empty(torch.bfloat16, *scales))
    return Dense(empty(torch.bfloat16, *shape))


def total_bytes(config: Config, format: Format) -> int:
    """Bytes of all tensors of a model in `format`, headers apart."""
    layout = file_layout(config, format)
    return sum(tensor.nbytes for tensors in layout.values() for _, tensor in tensors)


def hf_style(config: Config) -> HfStyle:
    """Text models are written as a bare Mistral4ForCausalLM, models with images under the release's prefixes."""
    return "bare" if isinstance(config, DraftConfig) or config.vision is None else "release"


def _encode_dense(name: str, row: Row, dense: Tensor, config: Config, is_hf: bool) -> Tensors:
    if is_hf:
        if row.rope_rows and not isinstance(config, DraftConfig) and config.vision is not None:
            dense = pairs_to_halves(Dense(dense), config.vision.num_attention_heads).to_dense()
        yield _hf_name(name, config), dense
    elif is_fused_experts(name):
        parts = _expert_parts(name, dense.shape[0])
        for expert, matrix in zip(parts, _apart(dense, len(parts)), strict=True):
            yield expert.weight, matrix
    else:
        yield name, dense


def _encode_fp8(name: str, stored: Stored, config: Config, is_hf: bool, given: float | Tensor | None) -> Tensors:
    fused = is_fused_experts(name)
    scales: ScaleShape = ()
    if fused:
        scales = (stored.shape[0], 2 if name.endswith("w13") and not is_hf else 1, 1)
    if not isinstance(stored, Fp8):
        stored = quantize_fp8(stored.to_dense(torch.float32 if isinstance(stored, Nvfp4) else None), scales)
    stored = with_bfloat16_scales(with_shared_scale(stored) if is_hf else stored)
    scale = stored.scale.expand(scales)
    activation = _input_scale(given, stored.activation_scale, scales, scale, torch.bfloat16)
    if fused and not is_hf:
        experts = _expert_parts(name, stored.shape[0])
        columns = (_apart(stored.codes, len(experts)), scale.reshape(-1).unbind(), activation.reshape(-1).unbind())
        for expert, codes, one_scale, one_activation in zip(experts, *columns, strict=True):
            yield expert.weight, codes
            yield expert.scale, one_scale
            yield expert.activation_scale, one_activation
        return
    parts = hf_parts(_hf_name(name, config)) if is_hf else native_parts(name)
    yield parts.weight, stored.codes
    yield parts.scale, scale
    yield parts.activation_scale, activation.reshape(-1) if fused else activation


def _encode_nvfp4(name: str, stored: Stored, given: float | Tensor | None) -> Tensors:
    if not isinstance(stored, Nvfp4):
        stored = quantize_nvfp4(stored.to_dense())
    fused = is_fused_experts(name)
    scales: ScaleShape = (stored.shape[0], 2 if name.endswith("w13") else 1, 1) if fused else ()
    global_scale = stored.global_scale.to(torch.float32).expand(scales)
    # The release's own types: the input scale of a shared expert is bfloat16, a routed one's float32.
    kind = torch.float32 if fused else torch.bfloat16
    input_scale = _input_scale(given, stored.input_scale, scales, global_scale, kind)
    if not fused:
        yield from _nvfp4_parts(native_parts(name), stored.packed, stored.scale, global_scale, input_scale)
        return
    experts = _expert_parts(name, stored.shape[0])
    columns = (
        _apart(stored.packed, len(experts)),
        _apart(stored.scale, len(experts)),
        global_scale.reshape(-1).unbind(),
        input_scale.reshape(-1).unbind(),
    )
    for expert, *tensors in zip(experts, *columns, strict=True):
        yield from _nvfp4_parts(expert, *tensors)


def _nvfp4_parts(parts: Parts, packed: Tensor, scale: Tensor, global_scale: Tensor, input_scale: Tensor) -> Tensors:
    yield str(parts.packed), packed
    yield str(parts.group_scale), scale
    yield str(parts.global_scale), global_scale.reshape(1)
    yield str(parts.input_scale), input_scale.reshape(1)


def _expert_parts(name: str, num_experts: int) -> list[Parts]:
    """What the parts of each single expert's matrices are called, in the order in which they are stacked."""
    return [native_parts(matrix) for matrices in expert_names(name, num_experts) for matrix in matrices]


def _apart(fused: Tensor, count: int) -> tuple[Tensor, ...]:
    """The stacked matrices one by one, without a copy."""
    return fused.reshape(count, -1, fused.shape[-1]).unbind()


def _input_scale(
    given: float | Tensor | None, stored: Tensor | None, shape: ScaleShape, like: Tensor, dtype: torch.dtype
) -> Tensor:
    if given is not None:
        scale = torch.as_tensor(given, dtype=torch.float32, device=like.device)
        if scale.numel() not in (1, shape[0] if shape else 1):
            raise ConfigError(f"an activation scale has {scale.numel()} entries; give one, or one per expert")
        scale = scale.reshape(-1, 1, 1) if shape else scale.reshape(())
    elif stored is not None:
        scale = stored
    else:
        scale = torch.ones((), device=like.device)
    return scale.to(dtype).expand(shape)


def _hf_name(name: str, config: Config) -> str:
    found = hf_name(name, hf_style(config))
    if found is None:
        raise UnsupportedModelError(f"{name} has no name in a Hugging Face checkpoint; save in a native format")
    return found
