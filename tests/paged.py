"""One sequence over the engine's paged cache, for tests and benchmarks of a model rather than of the engine."""

from random import Random

import torch

from small4.chat import Sampling
from small4.engine.batch import build_batch
from small4.engine.config import CacheFormat, EngineConfig
from small4.engine.draw_state import DrawState
from small4.engine.kv_cache import PagedCache, plan_cache
from small4.engine.paged_attention import ABSORB_UP_TO, PagedAttention
from small4.engine.scheduler import Run
from small4.engine.sequence import Sequence
from small4.engine.steering import Steering
from small4.kernels.ops import backend
from small4.model.attention import Form
from small4.model.config import ModelConfig

SHORT_RUN = {"expanded": 0, "absorbed": 10**9, None: ABSORB_UP_TO}


class PagedSequence:
    """Counts the tokens that its cache holds; its blocks lie in random order."""

    def __init__(
        self,
        model: ModelConfig,
        capacity: int,
        dtype: torch.dtype,
        block_size: int = 16,
        *,
        is_native: bool = False,
        cache_format: CacheFormat = "model",
    ) -> None:
        config = EngineConfig(block_size=block_size, cache_bytes=2**40, cache_format=cache_format)
        plan = plan_cache(model, config, dtype, 2**40, capacity)
        self.cache = PagedCache(model, plan, config, dtype)
        self.block_size = block_size
        self.length = 0
        self.kernels = backend(native=is_native)
        blocks = Random(capacity).sample(range(plan.num_blocks), plan.num_blocks)
        steering = Steering(DrawState(Sampling(), vocab_size=model.vocab_size))
        self.sequence = Sequence(0, [], 0, capacity, frozenset(), steering, b"", blocks=blocks)

    def next(self, num_tokens: int, form: Form | None = None) -> PagedAttention:
        """The attention of a pass over the next tokens, which then count as held; None: as the engine decides."""
        run = Run(self.sequence, self.length, (0,) * num_tokens, 0, True)
        self.length = run.end
        return PagedAttention(self.cache, build_batch([run], self.block_size, SHORT_RUN[form]), self.kernels)
