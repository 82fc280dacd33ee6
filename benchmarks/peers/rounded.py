"""How a packed model stores each parameter, and the numbers that its codes stand for: ours, and llama.cpp's files."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import gguf
import torch
from gguf.quants import dequantize
from torch import Tensor

from small4.checkpoint.blank import parameter_shapes
from small4.checkpoint.names import gguf_names, official_from_gguf
from small4.kernels.quantized import PackedWeight, unpack
from small4.model.config import ModelConfig
from small4.model.linear import PackedLinear
from small4.model.moe import PackedExperts
from small4.model.transformer import Transformer


@dataclass(frozen=True, slots=True)
class Storage:
    """All weights of a model."""

    num_bytes: int
    types: dict[str, str]  # kind of matrix, layers together -> types, with the number of layers where they differ


def packed_storage(model: Transformer) -> Storage:
    """Of our model, plain or packed."""
    sizes, types = 0, []
    for name, weight in weights_of(model):
        is_packed = isinstance(weight, PackedWeight)
        sizes += weight.size_bytes if is_packed else weight.nbytes
        if is_packed or weight.ndim > 1:
            types.append((name, weight.kind if is_packed else str(weight.dtype).removeprefix("torch.")))
    return Storage(sizes, by_kind(types))


def gguf_storage(path: Path) -> Storage:
    """Of a GGUF file."""
    tensors = gguf.GGUFReader(path).tensors
    types = [
        (official_from_gguf(tensor.name) or tensor.name, tensor.tensor_type.name)
        for tensor in tensors
        if len(tensor.shape) > 1
    ]
    return Storage(sum(int(tensor.n_bytes) for tensor in tensors), by_kind(types))


def by_kind(types: list[tuple[str, str]]) -> dict[str, str]:
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for name, stored in types:
        counts[re.sub(r"^layers\.\d+\.", "", name).removesuffix(".weight")][stored] += 1
    return {
        kind: ", ".join(stored if len(count) == 1 else f"{stored} x{number}" for stored, number in count.items())
        for kind, count in counts.items()
    }


def weights_of(model: Transformer) -> Iterator[tuple[str, PackedWeight | Tensor]]:
    """Every weight once, packed or not, under its official name; w1 and w3 of packed shared experts are one."""
    for path, module in model.named_modules():
        if isinstance(module, PackedLinear):
            yield f"{path}.weight", module.weight
        elif isinstance(module, PackedExperts):
            w13, w2, shared = module.weights
            pairs = [(f"{path}.w13", w13), (f"{path}.w2", w2)]
            if shared is not None:
                beside = path.removesuffix("experts") + "shared_experts"
                pairs += [(f"{beside}.w13", shared[0]), (f"{beside}.w2.weight", shared[1])]
            yield from pairs
        else:
            for name, parameter in module.named_parameters(recurse=False):
                yield f"{path}.{name}", parameter


def dense_of_packed(model: Transformer) -> dict[str, Tensor]:
    """Float32 weights by official name; the head is among them where it is packed, though the embeddings be tied."""
    dense = {
        name: unpack(weight) if isinstance(weight, PackedWeight) else weight.float()
        for name, weight in weights_of(model)
    }
    for name in [name for name in dense if name.endswith("shared_experts.w13")]:
        stem = name.removesuffix("w13")
        dense[f"{stem}w1.weight"], dense[f"{stem}w3.weight"] = dense.pop(name).chunk(2)
    return dense


def dense_of_gguf(path: Path, config: ModelConfig) -> dict[str, Tensor]:
    """Float32 weights of a file of any type, by official name."""
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    dense = {}
    for official, shape in parameter_shapes(config).items():
        parts = [
            torch.tensor(dequantize(tensors[name].data, tensors[name].tensor_type)) for name in gguf_names(official)
        ]
        if len(parts) == 2:  # wkv_b lies in two, the keys' half transposed per head
            parts = [torch.cat([parts[0].transpose(1, 2), parts[1]], dim=1)]
        dense[official] = parts[0].reshape(shape)
    return dense
