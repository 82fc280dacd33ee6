"""Runs the model over a step's batch."""

import torch
from torch import Tensor

from small4.engine.batch import StepBatch
from small4.engine.kv_cache import PagedCache
from small4.engine.paged_attention import PagedAttention
from small4.engine.scheduler import Run
from small4.errors import ImageError
from small4.kernels.ops import backend
from small4.model.quantize import fuse_model
from small4.model.transformer import Transformer


class Runner:
    """One model, the cache that it reads and fills, and the kernels for it: plain torch's if `is_plain` or need be."""

    def __init__(self, model: Transformer, cache: PagedCache, *, is_plain: bool = False) -> None:
        self.model = model
        self.cache = cache
        kernels = backend(native=not is_plain)
        fits = kernels.can_attend(model.config.kv_width, model.config.kv_lora_rank)
        self.kernels = kernels if fits else backend(native=False)
        fuse_model(model, self.kernels)

    def run(self, batch: StepBatch) -> Tensor:
        """Logits [draw rows, W] behind the tokens that are drawn from; the cache holds the batch's rows afterwards."""
        x_TD = self.model.tok_embeddings(batch.tokens_T)
        for run, start in zip(batch.runs, batch.starts, strict=False):
            if run.sequence.images and run.start < run.sequence.num_prompt:
                self._place_images(run, x_TD[start : start + len(run.tokens)])
        hidden_TD = self.model.run(x_TD, batch.positions_T, PagedAttention(self.cache, batch, self.kernels))
        return self.model.logits(hidden_TD[batch.draw_rows])

    def _place_images(self, run: Run, x_TD: Tensor) -> None:
        """Write the image rows that belong to this chunk over its image tokens, in place."""
        sequence, vision = run.sequence, self.model.config.vision
        if sequence.image_rows is None:
            sequence.image_rows = self.model.image_rows(sequence.images)
        assert vision is not None, "image_rows has checked it"
        places = [i for i, token in enumerate(sequence.tokens[: sequence.num_prompt]) if token == vision.image_token_id]
        if len(places) != sequence.image_rows.shape[0]:
            raise ImageError(
                f"{len(sequence.images)} images make {sequence.image_rows.shape[0]} rows, "
                f"the prompt has room for {len(places)}"
            )
        here = [(row, place) for row, place in enumerate(places) if run.start <= place < run.end]
        if here:
            rows, inside = zip(*here, strict=True)
            x_TD[torch.tensor(inside) - run.start] = sequence.image_rows[list(rows)]
