"""Runs the model over a step's batch."""

import torch
from torch import Tensor

from small4.engine.batch import StepBatch
from small4.engine.kv_cache import PagedCache
from small4.engine.paged_attention import PagedAttention
from small4.engine.sequence import Sequence
from small4.errors import ImageError
from small4.kernels.ops import Kernels, backend
from small4.model.config import ModelConfig
from small4.model.quantize import fuse_model
from small4.model.transformer import Transformer


class Runner:
    """One model, the cache that it reads and fills, and the kernels for it: plain torch's if `is_plain` or need be."""

    def __init__(self, model: Transformer, cache: PagedCache, *, is_plain: bool = False) -> None:
        self.model = model
        self.cache = cache
        self.kernels = kernels_for(model.config, is_plain=is_plain)
        fuse_model(model, self.kernels)

    def run(self, batch: StepBatch) -> tuple[Tensor, Tensor]:
        """Last hidden states [T, D], and logits [draw rows, W] behind the tokens that are drawn from.

        The cache holds the batch's rows afterwards.
        """
        hidden_TD = self.model.run(
            self.embed(batch), batch.positions_T, PagedAttention(self.cache, batch, self.kernels)
        )
        return hidden_TD, self.model.logits(hidden_TD[batch.draw_rows])

    def embed(self, batch: StepBatch, ahead: int = 0) -> Tensor:
        """Input rows [T, D], images in their places; the tokens stand so many places behind their runs' positions."""
        x_TD: Tensor = self.model.tok_embeddings(batch.tokens_T)
        for run, start in zip(batch.runs, batch.starts, strict=False):
            self._place_images(run.sequence, run.start + ahead, x_TD[start : start + len(run.tokens)])
        return x_TD

    def _place_images(self, sequence: Sequence, start: int, x_TD: Tensor) -> None:
        """Write the image rows that belong to the tokens from `start` on over their image tokens, in place."""
        if not sequence.images or start >= sequence.num_prompt:
            return
        vision = self.model.config.vision
        if sequence.image_rows is None:
            sequence.image_rows = self.model.image_rows(sequence.images)
        assert vision is not None, "image_rows has checked it"
        places = [i for i, token in enumerate(sequence.tokens[: sequence.num_prompt]) if token == vision.image_token_id]
        if len(places) != sequence.image_rows.shape[0]:
            raise ImageError(
                f"{len(sequence.images)} images make {sequence.image_rows.shape[0]} rows, "
                f"the prompt has room for {len(places)}"
            )
        here = [(row, place) for row, place in enumerate(places) if 0 <= place - start < len(x_TD)]
        if here:
            rows, inside = zip(*here, strict=True)
            x_TD[torch.tensor(inside) - start] = sequence.image_rows[list(rows)]


def kernels_for(config: ModelConfig, *, is_plain: bool) -> Kernels:
    """The library's kernels where they take this shape, else torch's."""
    kernels = backend(native=not is_plain)
    return kernels if kernels.can_attend(config.kv_width, config.kv_lora_rank) else backend(native=False)
