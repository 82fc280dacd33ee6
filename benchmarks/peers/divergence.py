"""How far one model's predictions are from another's: KL(p || q) = sum over tokens of p log(p / q), in nats."""

from collections.abc import Sequence

import torch
from torch import Tensor

from small4.model.transformer import Transformer
from tests.paged import PagedSequence


def divergence(reference_TW: Tensor, other_TW: Tensor) -> Tensor:
    """KL(reference || other) of every row of logits, [T], in float64."""
    log_p_TW, log_q_TW = (logits.double().log_softmax(-1) for logits in (reference_TW, other_TW))
    return (log_p_TW.exp() * (log_p_TW - log_q_TW)).sum(-1)


def engine_logits(model: Transformer, tokens: Sequence[int], *, num_single: int = 0, is_native: bool = True) -> Tensor:
    """Float32 rows [T, W] behind every token, computed as in the engine: a prompt, then `num_single` single tokens."""
    tokens_T, dtype = torch.tensor(tokens), model.tok_embeddings.weight.dtype
    paged = PagedSequence(model.config, len(tokens), dtype, block_size=32, is_native=is_native)
    parts_T = [tokens_T[: len(tokens) - num_single], *tokens_T[len(tokens) - num_single :].split(1)]
    rows = []
    for part_T in parts_T:
        positions_T = torch.arange(paged.length, paged.length + len(part_T))
        rows.append(model.logits(model.hidden(part_T, positions_T, paged.next(len(part_T)))))
    return torch.cat(rows).float()
