"""The slowest honest generator: the whole sequence again for every token. All faster paths must give its tokens."""

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from small4.model.attention import FullAttention
from small4.model.transformer import Transformer


@torch.inference_mode()
def generate(
    model: Transformer,
    token_ids: Sequence[int],
    *,
    max_tokens: int,
    stop_ids: Collection[int] = (),
    images: Sequence[Tensor] = (),
) -> list[int]:
    """The greedy continuation: at most `max_tokens` ids, up to and without the first stop id."""
    sequence = list(token_ids)
    for _ in range(max_tokens):
        attention = FullAttention([len(sequence)], form="expanded")
        logits_TW = model(torch.tensor(sequence), torch.arange(len(sequence)), attention, images)
        next_id = int(logits_TW[-1].argmax())
        if next_id in stop_ids:
            break
        sequence.append(next_id)
    return sequence[len(token_ids) :]
