"""The least time that a decoding step can take: bytes that it must read over bytes that memory gives in a second.

    bytes = weights of every step + routed experts * share of them that the tokens choose + cached rows of all streams

The share is counted on random tokens; what memory gives is probed. Embeddings are left out: a token reads one row.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import gguf
import torch
from torch import Tensor

from benchmarks.peers.rounds import timed
from small4.kernels.ops import backend
from small4.model.attention import FullAttention
from small4.model.linear import PackedLinear
from small4.model.moe import Experts, PackedExperts
from small4.model.transformer import Transformer

PROBE_BYTES = 2**30
PROBES = 9
ROUTED_TOKENS = 512


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes of weights as they are stored."""

    every_step: int
    routed: int  # all routed experts of all layers

    def step_bytes(self, share: float, cached: float) -> float:
        """Bytes of a step that runs this share of the routed experts and reads `cached` bytes of context."""
        return self.every_step + self.routed * share + cached


def model_traffic(model: Transformer) -> Traffic:
    """Of our model, plain or packed."""
    every_step = routed = 0
    for module in model.modules():
        if isinstance(module, PackedLinear):
            every_step += module.weight.size_bytes
        elif isinstance(module, PackedExperts):
            w13, w2, shared = module.weights
            routed += size_of(w13) + size_of(w2)
            every_step += sum(map(size_of, shared or ()))
        elif isinstance(module, Experts):
            routed += module.w13.nbytes + module.w2.nbytes
        elif module is not model.tok_embeddings or model.output is None:
            every_step += sum(parameter.nbytes for parameter in module.parameters(recurse=False))
    return Traffic(every_step, routed)


def size_of(weight: object) -> int:
    return weight.nbytes if isinstance(weight, Tensor) else weight.size_bytes  # type: ignore[attr-defined, no-any-return]


def gguf_traffic(path: Path) -> Traffic:
    """Of a GGUF file."""
    sizes = {tensor.name: int(tensor.n_bytes) for tensor in gguf.GGUFReader(path).tensors}
    if "output.weight" in sizes:
        del sizes["token_embd.weight"]
    routed = sum(size for name, size in sizes.items() if "_exps." in name)
    return Traffic(sum(sizes.values()) - routed, routed)


def routing_shares(model: Transformer, streams: Sequence[int]) -> dict[int, float]:
    """Share of a layer's experts that so many random tokens choose together, on average; runs the plain layers."""
    chosen: list[Tensor] = []
    model.routing_observer = lambda layer, logits_TE, expert_ids_TK: chosen.append(expert_ids_TK)
    generator = torch.Generator().manual_seed(0)
    tokens_T = torch.randint(20, model.config.vocab_size, (ROUTED_TOKENS,), generator=generator)
    model.hidden(tokens_T, torch.arange(ROUTED_TOKENS), FullAttention([ROUTED_TOKENS]))
    model.routing_observer = None
    assert model.config.moe is not None
    groups = {
        n: torch.randperm(ROUTED_TOKENS, generator=generator)[: ROUTED_TOKENS // n * n].view(-1, n) for n in streams
    }
    return {
        n: statistics.mean(len(ids_TK[group].unique()) for ids_TK in chosen for group in groups[n])
        / model.config.moe.num_experts
        for n in streams
    }


def bandwidth() -> dict[str, float]:
    """Bytes per second of reading 1 GiB, medians: torch's sum of it, and our own product with one row."""
    matrix = torch.ones(PROBE_BYTES // 2**14, 2**13, dtype=torch.bfloat16)
    row, product, words = torch.ones(1, 2**13, dtype=torch.bfloat16), backend().linear(matrix), matrix.view(torch.int64)
    readers = {"sum": words.sum, "product": lambda: product(row)}
    return {name: PROBE_BYTES / statistics.median(timed(read) for _ in range(PROBES)) for name, read in readers.items()}
