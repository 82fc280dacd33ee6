"""The miniature of Mistral Small 4: 1.32 billion random parameters in the release's kinds of layers, for everybody.

12 layers of width 1024, 64 experts of which 4 run, vocabulary 32,768; weights are drawn from N(0, 0.02), norms are 1.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.peers.environment import LOCK, cache
from benchmarks.peers.llama import Worker
from small4.checkpoint.gguf_write import write_gguf
from small4.checkpoint.stored import Dense
from small4.kernels.ops import backend
from small4.kernels.quantized import Kind, PackedWeight
from small4.kernels.with_torch import TorchKernels
from small4.model.config import ModelConfig, MoeConfig, YarnConfig
from small4.model.quantize import quantize_model
from small4.model.transformer import Transformer

GGUF_TYPES = ("BF16", "Q8_0", "Q4_0", "Q4_K_M")


def mini_config(num_layers: int) -> ModelConfig:
    """Everything of the release, smaller."""
    return ModelConfig(
        dim=1024,
        n_layers=num_layers,
        n_heads=8,
        q_lora_rank=256,
        hidden_dim=4096,
        vocab_size=32768,
        moe=MoeConfig(num_experts=64, expert_hidden_dim=512),
        yarn=YarnConfig(apply_scale=True),
        vision=None,
    )


def random_state(num_layers: int) -> dict[str, Tensor]:
    """Weights in bf16, the same on every call."""
    with torch.device("meta"):
        model = Transformer(mini_config(num_layers))
    generator, state = torch.Generator().manual_seed(0), {}
    for name, parameter in model.named_parameters():
        tensor = torch.empty(parameter.shape, dtype=torch.bfloat16)
        state[name] = tensor.fill_(1.0) if tensor.ndim == 1 else tensor.normal_(0.0, 0.02, generator=generator)
    return state


def engine_model(num_layers: int, state: dict[str, Tensor], weights: str, is_plain: bool) -> Transformer:
    """Our miniature with weights in one format; formats other than bf16 are made from those."""
    with torch.device("meta"):
        model = Transformer(mini_config(num_layers)).to(torch.bfloat16)
    model.load_state_dict(state, assign=True)
    model.eval().requires_grad_(False)
    if weights != "bf16":
        quantize_model(model, weights, PackedAhead("as asked") if is_plain else backend())  # type: ignore[arg-type]
    return model


class PackedAhead(TorchKernels):
    """Torch's operators over what the library packed: the definition's bytes, in seconds instead of many minutes."""

    def pack(self, weight: Tensor, kind: Kind) -> PackedWeight:
        return backend().pack(weight, kind)


@dataclass(frozen=True)
class InMemory:
    """Weights in memory, offered as a checkpoint."""

    config: ModelConfig
    state: dict[str, Tensor]

    def read(self, name: str) -> Dense:
        return Dense(self.state[name])


def gguf_file(source: InMemory, kind: str, threads: int) -> Path:
    """The weights as GGUF, from the cache or made there: BF16 by our writer, the rest from that by llama.cpp."""
    sample = torch.cat([tensor.flatten()[:64].float() for tensor in source.state.values()]).numpy().tobytes()
    parts = [repr(source.config).encode(), sample, LOCK.read_bytes()]
    digest = hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]
    path = cache() / f"gguf-{digest}" / f"{kind}.gguf"
    if path.exists():
        return path
    if kind == "BF16":
        write_gguf(source, path, "gguf-bf16")
        return path
    worker, partial = Worker(), path.with_suffix(".partial")
    worker.ask(
        "quantize", source=str(gguf_file(source, "BF16", threads)), target=str(partial), kind=kind, threads=threads
    )
    worker.close()
    return partial.rename(path)
