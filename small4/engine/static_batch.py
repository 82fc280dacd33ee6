"""Greedy generation of a fixed batch, all sequences side by side: what evaluation uses until the engine arrives.

Every sequence has its own row in one padded cache [layers, B, S, C]; a step feeds each its last token, and a mask hides
what lies behind its own length. Equal to `generator.generate` one by one up to floating-point order.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from small4.engine.generator import check_ids, check_lengths
from small4.model.attention import LatentProjection
from small4.model.packed_attention import PackedAttention
from small4.model.transformer import Transformer


@torch.inference_mode()
def generate_batch(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    *,
    max_tokens: int,
    context_length: int,
    stop_id: int = 2,
    on_step: Callable[[int], None] = lambda running: None,
) -> list[list[int]]:
    """New token ids of every prompt, the stop id included. `on_step` hears how many sequences still run."""
    for prompt in prompts:
        check_lengths(len(prompt), max_tokens, context_length)
        check_ids(prompt, model.config.vocab_size)
    lengths = [len(prompt) for prompt in prompts]
    cache = _BatchCache(model, lengths, max(lengths) + max_tokens)
    tokens_T = torch.tensor([token for prompt in prompts for token in prompt])
    positions_T = torch.cat([torch.arange(length) for length in lengths])
    hidden_TD = model.hidden(tokens_T, positions_T, cache.prefill())
    logits_BW = model.logits(hidden_TD[torch.tensor(lengths).cumsum(0) - 1])
    outputs: list[list[int]] = [[] for _ in prompts]
    rows = list(range(len(prompts)))  # which prompt each cache row belongs to
    for _ in range(max_tokens):
        new_B = logits_BW.argmax(-1)
        for row, token in zip(rows, new_B.tolist(), strict=True):
            outputs[row].append(token)
        going_B = new_B != stop_id
        rows = [row for row, going in zip(rows, going_B.tolist(), strict=True) if going]
        if not rows:
            break
        if len(rows) < len(new_B):
            cache.keep(going_B)
        on_step(len(rows))
        hidden_BD = model.hidden(new_B[going_B], cache.lengths_B, cache)
        cache.lengths_B = cache.lengths_B + 1
        logits_BW = model.logits(hidden_BD)
    return outputs


class _BatchCache:
    """Latents of all sequences; an `Attention` for steps of one token each."""

    def __init__(self, model: Transformer, lengths: Sequence[int], capacity: int) -> None:
        config = model.config
        self.latent_width = config.kv_lora_rank
        self.lengths_B = torch.tensor(lengths)
        dtype = model.tok_embeddings.weight.dtype
        self.rows_LBSC = torch.zeros(config.n_layers, len(lengths), capacity, config.kv_width, dtype=dtype)

    def prefill(self) -> "_BatchPrefill":
        return _BatchPrefill(self)

    def keep(self, going_B: Tensor) -> None:
        """Drop the sequences that have ended."""
        self.rows_LBSC, self.lengths_B = self.rows_LBSC[:, going_B], self.lengths_B[going_B]

    def __call__(
        self, layer: int, query_TNH: Tensor, latent_TL: Tensor, rope_key_TR: Tensor, projection: LatentProjection
    ) -> Tensor:
        rows_BSC = self.rows_LBSC[layer]
        rows_BSC[torch.arange(len(self.lengths_B)), self.lengths_B] = torch.cat([latent_TL, rope_key_TR], -1)
        rows_BSC = rows_BSC[:, : int(self.lengths_B.max()) + 1]
        query_BNC = torch.cat(projection.absorb(query_TNH), dim=-1)
        hidden_BS = torch.arange(rows_BSC.shape[1]) > self.lengths_B[:, None]
        scores_BNS = (query_BNC @ rows_BSC.mT * projection.scale).masked_fill(hidden_BS[:, None], float("-inf"))
        weights_BNS = F.softmax(scores_BNS, dim=-1, dtype=torch.float32).to(query_BNC.dtype)
        return projection.values(weights_BNS @ rows_BSC[..., : self.latent_width])


class _BatchPrefill:
    """Packed prompts attend to themselves; their latents go to the cache."""

    def __init__(self, cache: _BatchCache) -> None:
        self.cache = cache
        self.attention = PackedAttention(cache.lengths_B.tolist())

    def __call__(
        self, layer: int, query_TNH: Tensor, latent_TL: Tensor, rope_key_TR: Tensor, projection: LatentProjection
    ) -> Tensor:
        rows_TC = torch.cat([latent_TL, rope_key_TR], dim=-1)
        for row, part_TC in enumerate(rows_TC.split(self.cache.lengths_B.tolist())):
            self.cache.rows_LBSC[layer, row, : len(part_TC)] = part_TC
        return self.attention(layer, query_TNH, latent_TL, rope_key_TR, projection)
