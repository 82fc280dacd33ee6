"""`FullAttention` for many short sequences at once: padded to one length, one fused call per layer.

Padding goes behind each sequence, where a causal mask hides it from every real token, so no mask is needed and only the
attention itself runs over padding; all other layers see packed tokens.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from small4.model.attention import LatentProjection


class PackedAttention:
    """Each packed sequence attends causally to itself, whole, in expanded form. Equals `FullAttention`."""

    def __init__(self, lengths: Sequence[int], device: torch.device | str = "cpu") -> None:
        self.num_sequences, self.max_length = len(lengths), max(lengths)
        lengths_B = torch.tensor(lengths, device=device)
        starts_B = lengths_B.cumsum(0) - lengths_B
        places_S = torch.arange(self.max_length, device=device)
        inside_BS = places_S < lengths_B[:, None]
        self.gather_BS = torch.where(inside_BS, starts_B[:, None] + places_S, 0)
        self.scatter_T = inside_BS.flatten().nonzero().squeeze(1)

    def __call__(
        self, layer: int, query_TNH: Tensor, latent_TL: Tensor, rope_key_TR: Tensor, projection: LatentProjection
    ) -> Tensor:
        key_TNH, value_TNV = projection.expand(latent_TL, rope_key_TR)
        query, key, value = (t[self.gather_BS].transpose(1, 2) for t in (query_TNH, key_TNH, value_TNV))
        context = F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=projection.scale)
        return context.transpose(1, 2).flatten(0, 1)[self.scatter_T]
