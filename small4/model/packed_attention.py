"""`FullAttention` for many short sequences at once, for training: a few of like length per fused call, padded alike.

Padding goes behind each sequence, where a causal mask hides it from every real token, so no mask is needed and only the
attention itself runs over padding; all other layers see packed tokens. Padded rows thus carry no gradient.

    packed tokens T  --gather_P-->  padded places P, group after group  --scatter_T-->  packed tokens T
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from small4.kernels.rows import move_rows
from small4.model.attention import LatentProjection

GROUP_SIZE = 4  # sequences in one call: more save calls, fewer save padding


class PackedAttention:
    """Each packed sequence attends causally to itself, whole, in expanded form. Equals `FullAttention`."""

    def __init__(self, lengths: Sequence[int], device: torch.device | str = "cpu") -> None:
        starts = [sum(lengths[:index]) for index in range(len(lengths))]
        by_length = sorted(range(len(lengths)), key=lambda index: lengths[index])
        groups = [by_length[first : first + GROUP_SIZE] for first in range(0, len(by_length), GROUP_SIZE)]
        self.shapes = [(len(group), lengths[group[-1]]) for group in groups]  # sequences, padded length
        places = [
            starts[index] + place if place < lengths[index] else -1
            for group, (_, longest) in zip(groups, self.shapes, strict=True)
            for index in group
            for place in range(longest)
        ]
        places_P = torch.tensor(places, device=device)
        self.gather_P = places_P.clamp(min=0)
        real_P = (places_P >= 0).nonzero().squeeze(1)
        self.scatter_T = torch.empty_like(real_P)
        self.scatter_T[places_P[real_P]] = real_P

    def __call__(
        self, layer: int, query_TNH: Tensor, latent_TL: Tensor, rope_key_TR: Tensor, projection: LatentProjection
    ) -> Tensor:
        key_TNH, value_TNV = projection.expand(latent_TL, rope_key_TR)
        padded = (move_rows(t, self.gather_P, self.scatter_T) for t in (query_TNH, key_TNH, value_TNV))
        sizes = [sequences * longest for sequences, longest in self.shapes]
        contexts = []
        for shape, *group in zip(self.shapes, *(t.split(sizes) for t in padded), strict=True):
            query, key, value = (t.unflatten(0, shape).transpose(1, 2) for t in group)
            context = F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=projection.scale)
            contexts.append(context.transpose(1, 2).flatten(0, 1))
        return torch.cat(contexts)[self.scatter_T]
