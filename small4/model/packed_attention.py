"""`FullAttention` for many short sequences at once, for training: a few of like length per fused call, padded alike.

Padding goes behind each sequence, where a causal mask hides it from every real token, so no mask is needed and only the
attention itself runs over padding; all other layers see packed tokens. Padded rows thus carry no gradient.

    packed tokens T  --gather_P-->  padded places P, group after group  --scatter_T-->  packed tokens T
"""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from small4.kernels.rows import move_rows
from small4.model.attention import LatentProjection

GROUP_SIZE = 4  # sequences in one call: more save calls, fewer save padding
MAX_WASTE = 0.25  # padding per real token where calls are dear and groups as large as that allows


class PackedAttention:
    """Each packed sequence attends causally to itself, whole, in expanded form. Equals `FullAttention`.

    `few_calls` groups as many sequences as `MAX_WASTE` allows, which an accelerator wants.
    """

    def __init__(self, lengths: Sequence[int], device: torch.device | str = "cpu", *, few_calls: bool = False) -> None:
        lengths_B = torch.tensor(lengths)
        starts_B = lengths_B.cumsum(0) - lengths_B
        by_length = sorted(range(len(lengths)), key=lambda index: lengths[index])
        groups = _by_waste(by_length, lengths) if few_calls else list(_by_number(by_length))
        self.shapes = [(len(group), lengths[group[-1]]) for group in groups]  # sequences, padded length
        places = []
        for group, (_, longest) in zip(groups, self.shapes, strict=True):
            offsets = torch.arange(longest)
            real = offsets < lengths_B[group][:, None]
            places.append(torch.where(real, starts_B[group][:, None] + offsets, -1).flatten())
        places_P = torch.cat(places)
        real_P = (places_P >= 0).nonzero().squeeze(1)
        scatter_T = torch.empty_like(real_P)
        scatter_T[places_P[real_P]] = real_P
        self.gather_P = places_P.clamp(min=0).to(device)
        self.scatter_T = scatter_T.to(device)

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # its shapes change from step to step
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


def _by_number(by_length: Sequence[int]) -> Iterator[list[int]]:
    for first in range(0, len(by_length), GROUP_SIZE):
        yield list(by_length[first : first + GROUP_SIZE])


def _by_waste(by_length: Sequence[int], lengths: Sequence[int]) -> list[list[int]]:
    """Groups whose padding stays within bounds; `by_length` rises, so the last of a group is its longest."""
    groups: list[list[int]] = []
    num_real = 0
    for index in by_length:
        num_real += lengths[index]
        if groups and (len(groups[-1]) + 1) * lengths[index] <= (1 + MAX_WASTE) * num_real:
            groups[-1].append(index)
        else:
            groups.append([index])
            num_real = lengths[index]
    return groups
