"""At the end of 262,144 tokens, chunks and single tokens through the paged cache equal attention over all rows."""

import pytest
import torch
from torch import Tensor

from small4.model.attention import Form, LatentProjection, attend
from small4.providers.local import MAX_CONTEXT
from tests.engine.tiny import tiny_model
from tests.paged import PagedSequence

NEW, STEPS = 48, 4  # tokens of the last chunk, then tokens one by one, up to the last position


class AllRows:
    """An `Attention` whose cache is one tensor [S, C] per layer, in order."""

    def __init__(self, rows: list[Tensor], length: int, form: Form) -> None:
        self.rows, self.length, self.form = rows, length, form

    def __call__(
        self, layer: int, query_TNH: Tensor, latent_TL: Tensor, rope_key_TR: Tensor, projection: LatentProjection
    ) -> Tensor:
        end = self.length + latent_TL.shape[0]
        self.rows[layer][self.length : end] = torch.cat([latent_TL, rope_key_TR], dim=-1)
        return attend(query_TNH, self.rows[layer][:end], projection, self.form)


@pytest.mark.slow
@torch.inference_mode()
@pytest.mark.parametrize("is_native", [False, True])
def test_the_last_tokens_of_the_longest_context(is_native: bool) -> None:
    model = tiny_model(qk_rope_head_dim=16)  # rows of 32, which the native attention takes
    held = MAX_CONTEXT - NEW - STEPS
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randn(MAX_CONTEXT, model.config.kv_width, generator=generator) for _ in range(model.config.n_layers)]
    paged = PagedSequence(model.config, MAX_CONTEXT, torch.float32, block_size=64, is_native=is_native)
    slots_S = (torch.tensor(paged.sequence.blocks)[:, None] * 64 + torch.arange(64)).flatten()[:held]
    for layer, rows_SC in enumerate(rows):
        paged.cache.layers[layer].view(-1, rows_SC.shape[1])[slots_S] = rows_SC[:held]
    paged.length = held
    tokens_T = torch.randint(20, 3000, (NEW + STEPS,), generator=generator)
    start = 0
    for count in [NEW] + [1] * STEPS:
        part_T, positions_T = tokens_T[start : start + count], torch.arange(count) + held + start
        expected_TW = model(part_T, positions_T, AllRows(rows, held + start, "expanded"))
        torch.testing.assert_close(model(part_T, positions_T, paged.next(count)), expected_TW, rtol=1e-4, atol=1e-4)
        start += count
    assert paged.length == MAX_CONTEXT
