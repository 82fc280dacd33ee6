"""Every operation in plain PyTorch: the definition that faster versions must equal, and the path that training takes.

Legend of shape suffixes, for the whole project: T tokens packed over all sequences, S cached tokens, D width, N heads,
P nope dim, R rope dim, H = P + R query and key width, V value dim, Q query rank, L latent rank, E experts, K experts
per token, F expert width, W vocabulary, B sequences, I image patches.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from small4.kernels.pages import Pages


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension.

    The quotient is taken in float32 and rounded to the input's type before the weight multiplies it, as the reference
    does (specification 1.3).
    """
    return weight * F.rms_norm(x, x.shape[-1:], None, eps)


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(first half) * second half of the last dimension: [..., 2F] -> [..., F]."""
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up


def rotate_interleaved(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs (x_2i, x_2i+1) by angle i and write all first members, then all second ones.

    `x` is [..., R]; `cos` and `sin` are [..., R/2] in x's type. The de-interleaved order is the reference's layout of
    cached rope keys; scores do not depend on it.
    """
    first, second = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def causal_attention(query_TNH: Tensor, key_SNH: Tensor, value_SNV: Tensor, scale: float) -> Tensor:
    """Attention of the last T of S tokens of one sequence, each over itself and all before it -> [T, N, V].

    Scores in the model's type, softmax in float32 (specification 1.3 f).
    """
    scores_NTS = _hide_later(query_TNH.transpose(0, 1) @ key_SNH.permute(1, 2, 0) * scale)
    weights_NTS = torch.softmax(scores_NTS, dim=-1, dtype=torch.float32).to(query_TNH.dtype)
    return (weights_NTS @ value_SNV.transpose(0, 1)).transpose(0, 1)


def latent_attention(query_latent_TNL: Tensor, query_rope_TNR: Tensor, rows_SC: Tensor, scale: float) -> Tensor:
    """Absorbed latent attention: all heads read the same latent rows -> per-head mix of latents [T, N, L].

    A row is a token's latent with its rope key behind it, C = L + R.
    score = (q_latent . latent + q_rope . rope_key) * scale, causal as in `causal_attention`. The terms are larger than
    the scores they sum to, so float32 sums them in float64: otherwise far positions differ visibly between the forms.
    """
    query_TNC = torch.cat([query_latent_TNL, query_rope_TNR], dim=-1)
    num_queries, num_heads, width = query_TNC.shape
    wide = torch.float64 if query_TNC.dtype == torch.float32 else query_TNC.dtype
    # Queries of all heads as one matrix: a batched product would copy the rows once per head.
    query_XC = query_TNC.transpose(0, 1).reshape(-1, width)
    scores_XS = (query_XC.to(wide) @ rows_SC.T.to(wide) * scale).to(query_TNC.dtype)
    scores_NTS = _hide_later(scores_XS.view(num_heads, num_queries, -1))
    weights_NTS = torch.softmax(scores_NTS, dim=-1, dtype=torch.float32).to(query_TNC.dtype)
    mixed_XL = weights_NTS.flatten(0, 1) @ rows_SC[:, : query_latent_TNL.shape[-1]]
    return mixed_XL.view(num_heads, num_queries, -1).transpose(0, 1)


def paged_latent_attention(query_TNC: Tensor, pages: Pages, latent_width: int, scale: float) -> Tensor:
    """`latent_attention` of B packed sequences whose rows lie in blocks -> per-head mixes of latents [T, N, L]."""
    starts, mixed = pages.query_starts.tolist(), []
    for sequence in range(len(pages.context_lengths)):
        rows_SC = pages.rows(sequence, query_TNC.dtype)
        query_latent, query_rope = query_TNC[starts[sequence] : starts[sequence + 1]].tensor_split([latent_width], -1)
        mixed.append(latent_attention(query_latent, query_rope, rows_SC, scale))
    return torch.cat(mixed)


def _hide_later(scores_NTS: Tensor) -> Tensor:
    """The type's lowest value where query t, the (S - T + t)-th token, may not look."""
    num_queries, num_keys = scores_NTS.shape[1:]
    if num_queries == 1:
        return scores_NTS
    hidden_TS = torch.ones(num_queries, num_keys, dtype=torch.bool, device=scores_NTS.device)
    hidden_TS = hidden_TS.triu(diagonal=num_keys - num_queries + 1)
    return scores_NTS.masked_fill(hidden_TS, torch.finfo(scores_NTS.dtype).min)


def route(logits_TE: Tensor, experts_per_token: int, scale: float) -> tuple[Tensor, Tensor]:
    """Softmax over all experts, keep the best K, renormalise -> weights [T, K], expert ids [T, K]."""
    probabilities_TE = logits_TE.softmax(dim=-1)
    weights_TK, expert_ids_TK = torch.topk(probabilities_TE, experts_per_token, dim=-1, sorted=False)
    weights_TK = weights_TK / (weights_TK.sum(dim=-1, keepdim=True) + 1e-20) * scale
    return weights_TK, expert_ids_TK


def routed_experts(x_TD: Tensor, weights_TK: Tensor, expert_ids_TK: Tensor, w13: Tensor, w2: Tensor) -> Tensor:
    """Sum over a token's experts of weight * w2(silu(w1 x) * w3 x) -> [T, D]; experts in ascending order.

    `w13` is [E, 2F, D] with w1 above w3, `w2` is [E, D, F]. The weight multiplies the output of w2.
    """
    out_TD = torch.zeros_like(x_TD)
    for expert_id in expert_ids_TK.unique().tolist():
        token_ids, slots = torch.where(expert_ids_TK == expert_id)
        hidden_F = swiglu(F.linear(x_TD[token_ids], w13[expert_id]))
        weighted_D = F.linear(hidden_F, w2[expert_id]) * weights_TK[token_ids, slots, None]
        out_TD = out_TD.index_add(0, token_ids, weighted_D.to(out_TD.dtype))
    return out_TD
