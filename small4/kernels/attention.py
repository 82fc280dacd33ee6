"""Attention through torch's fused kernel: same result as `reference.causal_attention`, no score matrix in memory."""

import torch
import torch.nn.functional as F
from torch import Tensor


def fused_causal_attention(query_TNH: Tensor, key_SNH: Tensor, value_SNV: Tensor, scale: float) -> Tensor:
    """Attention of the last T of S tokens of one sequence, each over itself and all before it -> [T, N, V]."""
    num_queries, num_keys = query_TNH.shape[0], key_SNH.shape[0]
    query, key, value = (x.transpose(0, 1).unsqueeze(0) for x in (query_TNH, key_SNH, value_SNV))
    if num_queries == num_keys:
        out = F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale)
    else:
        seen_TS = torch.ones(num_queries, num_keys, dtype=torch.bool, device=query.device)
        seen_TS = seen_TS.tril(diagonal=num_keys - num_queries)
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=seen_TS, scale=scale)
    return out[0].transpose(0, 1)
