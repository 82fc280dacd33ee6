"""The latent cache of all sequences: tensors in blocks, and how many blocks the memory holds.

One row per token and layer: the normed latent and the rotated rope key, C = kv_lora_rank + qk_rope_head_dim values
(specification 1.3 d). Bytes of a token, over all layers:

    model's type    layers * C * size of the type
    fp8             layers * (C + 2)                 e4m3 values and one bfloat16 scale per row, max |row| / 448

A draft head has a cache of its own over the same blocks, always in the model's type, and room for hidden states that
wait for it, which is taken off before blocks are counted.
"""

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from small4.engine.config import EngineConfig
from small4.errors import MemoryBudgetError
from small4.model.config import ModelConfig

SHARE_OF_FREE = 0.3  # of the memory that is free when the engine starts, where no size is given


@dataclass(frozen=True, slots=True)
class CachePlan:
    """How the cache's memory comes out."""

    num_blocks: int
    block_size: int  # tokens
    token_bytes: int  # over all layers, those of a draft head included
    head_token_bytes: int = 0  # of them, the draft head's
    waiting_bytes: int = 0  # hidden states that wait for the draft head

    @property
    def num_tokens(self) -> int:
        return self.num_blocks * self.block_size

    @property
    def size_bytes(self) -> int:
        return self.num_tokens * self.token_bytes + self.waiting_bytes

    def __str__(self) -> str:
        head = f" (the draft head's: {self.head_token_bytes:,})" if self.head_token_bytes else ""
        waiting = f" with {self.waiting_bytes / 2**20:,.1f} MiB of states that wait for it" if head else ""
        return (
            f"cache: {self.num_blocks:,} blocks of {self.block_size} tokens = {self.num_tokens:,} tokens, "
            f"{self.token_bytes:,} bytes each{head}, {self.size_bytes / 2**20:,.1f} MiB{waiting}"
        )


def plan_cache(
    model: ModelConfig,
    config: EngineConfig,
    dtype: torch.dtype,
    free_bytes: int,
    max_tokens: int,
    head: ModelConfig | None = None,
) -> CachePlan:
    """Blocks for the configured size, or for a share of `free_bytes`; never more than `max_tokens` can use.

    `max_tokens` is what all running sequences could hold at once, `head` the shape of a draft head. Raises
    MemoryBudgetError where not even one block of every layer fits, and where the configured size is not free.
    """
    row_bytes = model.kv_width + 2 if config.cache_format == "fp8" else model.kv_width * dtype.itemsize
    head_token_bytes = 0 if head is None else head.n_layers * head.kv_width * dtype.itemsize
    waiting_bytes = 0 if head is None else prod(waiting_shape(head, config)) * dtype.itemsize
    token_bytes = model.n_layers * row_bytes + head_token_bytes
    whole = config.cache_bytes if config.cache_bytes is not None else int(free_bytes * SHARE_OF_FREE)
    budget = whole - waiting_bytes
    block_bytes = token_bytes * config.block_size
    if budget < block_bytes:
        raise MemoryBudgetError(
            f"the cache has {whole:,} bytes and one block of {config.block_size} tokens takes "
            f"{block_bytes + waiting_bytes:,}; {block_bytes - budget:,} are missing: free memory, or give the cache "
            "more (--cache)"
        )
    num_blocks = min(budget // block_bytes, -(-max_tokens // config.block_size))
    plan = CachePlan(num_blocks, config.block_size, token_bytes, head_token_bytes, waiting_bytes)
    if plan.size_bytes > free_bytes:
        raise MemoryBudgetError(
            f"the cache would take {plan.size_bytes:,} bytes and {free_bytes:,} are free; "
            f"{plan.size_bytes - free_bytes:,} are missing: free memory, or give the cache less (--cache)"
        )
    return plan


def waiting_shape(head: ModelConfig, config: EngineConfig) -> tuple[int, int, int]:
    """Hidden states that may wait for a draft head: a block's for every running sequence, and one guess."""
    return config.max_running, config.block_size + 1, head.dim


class PagedCache:
    """Rows of all blocks, layer by layer, as `kernels/pages.py` reads and writes them."""

    def __init__(self, model: ModelConfig, plan: CachePlan, config: EngineConfig, dtype: torch.dtype) -> None:
        self.plan = plan
        stored = torch.float8_e4m3fn if config.cache_format == "fp8" else dtype
        shape = (plan.num_blocks, plan.block_size)
        self.layers = [torch.zeros(*shape, model.kv_width, dtype=stored) for _ in range(model.n_layers)]
        self.scales: list[Tensor] | None = None
        if config.cache_format == "fp8":
            self.scales = [torch.zeros(shape, dtype=torch.bfloat16) for _ in range(model.n_layers)]
