"""The latent cache of one sequence, and the attention that reads it.

One row per token and layer: the normed latent and the rotated rope key, kv_lora_rank + qk_rope_head_dim values
(specification 1.3 d). This is the plain form; the paged cache for many sequences has its own file.
"""

import torch
from torch import Tensor

from small4.errors import ContextLengthError
from small4.model.attention import Form, LatentProjection, attend
from small4.model.config import ModelConfig

ABSORB_UP_TO = 16  # queries per pass; above that, expanding the cache costs less than meeting latents head by head


class LatentCache:
    """Room for `capacity` tokens of one sequence; grows in steps, so that a long limit costs nothing unused."""

    def __init__(self, config: ModelConfig, capacity: int, dtype: torch.dtype) -> None:
        self.capacity = capacity  # tokens
        self.length = 0  # tokens held by every layer
        self.latent_width = config.kv_lora_rank
        self.rows_LSC = torch.empty(config.n_layers, min(capacity, 256), config.kv_width, dtype=dtype)

    def write(self, layer: int, latent_TL: Tensor, rope_key_TR: Tensor) -> Tensor:
        """Put T new tokens behind those held and return all rows [S, C] of the layer: latent, then rope key."""
        end = self.length + latent_TL.shape[0]
        if end > self.capacity:
            raise ContextLengthError(f"the cache holds {self.capacity} tokens, {end} are needed; raise the context")
        if end > self.rows_LSC.shape[1]:
            self._grow(end)
        rows_SC = self.rows_LSC[layer, :end]
        rows_SC[self.length :, : self.latent_width] = latent_TL
        rows_SC[self.length :, self.latent_width :] = rope_key_TR
        return rows_SC

    def advance(self, num_tokens: int) -> None:
        """Count the tokens of a finished pass as held."""
        self.length += num_tokens

    def truncate(self, length: int) -> None:
        """Forget all tokens from `length` on."""
        self.length = min(self.length, length)

    def _grow(self, needed: int) -> None:
        num_layers, held, width = self.rows_LSC.shape
        grown = self.rows_LSC.new_empty(num_layers, min(self.capacity, max(needed, 2 * held)), width)
        grown[:, : self.length] = self.rows_LSC[:, : self.length]
        self.rows_LSC = grown


class CachedAttention:
    """New tokens of one sequence attend over its cache; `form` None absorbs for few queries and expands for many."""

    def __init__(self, cache: LatentCache, form: Form | None = None) -> None:
        self.cache = cache
        self.form = form

    def __call__(
        self, layer: int, query_TNH: Tensor, latent_TL: Tensor, rope_key_TR: Tensor, projection: LatentProjection
    ) -> Tensor:
        rows_SC = self.cache.write(layer, latent_TL, rope_key_TR)
        form = self.form or ("absorbed" if query_TNH.shape[0] <= ABSORB_UP_TO else "expanded")
        return attend(query_TNH, rows_SC, projection, form)
