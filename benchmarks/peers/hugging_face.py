"""transformers as a contender: fused attention, all streams in one batch of equal lengths, greedy."""

import time
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, StaticCache

from benchmarks.peers.rounds import WARM
from small4.model.config import ModelConfig
from tests.model.hugging_face import reference_model, reference_state

STATIC_ROOM = 64  # tokens that a static cache holds behind its context


class HuggingFace:
    """One expert implementation for decoding, grouped_mm for prompts.

    With `is_compiled` decoding runs in torch.compile over a static cache, which needs a C++ compiler and minutes. The
    contexts of a cache that can be cropped are kept between rounds.
    """

    def __init__(self, model: Any, experts: str, *, is_compiled: bool = False) -> None:
        self.model, self.experts, self.is_compiled = model, experts, is_compiled
        self.step = torch.compile(model.forward, dynamic=False) if is_compiled else model.forward
        self.caches: dict[tuple[int, int], Any] = {}

    def decode(self, num_streams: int, context: int, num_steps: int) -> list[float]:
        cache = self._cache(num_streams, context)
        token_B1 = self._tokens(num_streams, 1)
        self.model.set_experts_implementation(self.experts)
        seconds = []
        for place in range(context, context + WARM + num_steps):
            begin = time.perf_counter()
            token_B1 = self._feed(self.step, token_B1, place, cache)
            seconds.append(time.perf_counter() - begin)
        if not self.is_compiled:
            cache.crop(-(WARM + num_steps))
        return seconds[WARM:]

    def prompt(self, length: int) -> float:
        self.model.set_experts_implementation("grouped_mm" if self.experts == "batched_mm" else self.experts)
        tokens_BT, cache = self._tokens(1, length), DynamicCache()
        begin = time.perf_counter()
        self._feed(self.model.forward, tokens_BT, 0, cache)
        return time.perf_counter() - begin

    def _cache(self, num_streams: int, context: int) -> Any:
        """A cache that holds `context` tokens of every stream."""
        key = (num_streams, context)
        if key in self.caches and not self.is_compiled:
            return self.caches[key]
        if key in self.caches:
            self.caches[key].reset()
        elif self.is_compiled:
            self.caches[key] = StaticCache(config=self.model.config, max_cache_len=context + STATIC_ROOM)
        else:
            self.caches[key] = DynamicCache()
        self.model.set_experts_implementation("grouped_mm")
        self._feed(self.model.forward, self._tokens(num_streams, context), 0, self.caches[key])
        return self.caches[key]

    def _feed(self, run: Any, tokens_BT: Tensor, start: int, cache: Any) -> Tensor:
        """The best next tokens [B, 1]."""
        num_streams, num_tokens = tokens_BT.shape
        output = run(
            input_ids=tokens_BT,
            position_ids=torch.arange(start, start + num_tokens).expand(num_streams, -1),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        best_B1: Tensor = output.logits[:, -1:].argmax(-1)
        return best_B1

    def _tokens(self, num_streams: int, length: int) -> Tensor:
        generator = torch.Generator().manual_seed(num_streams)
        return torch.randint(20, self.model.config.vocab_size, (num_streams, length), generator=generator)


def share(config: ModelConfig, state: dict[str, Tensor]) -> nn.Module:
    """A reference model that holds the very tensors of `state`."""
    with torch.device("meta"):
        model = reference_model(config, attn_implementation="sdpa")
    model.load_state_dict(reference_state(state, config), assign=True)
    rotary = model.get_submodule("model.rotary_emb")
    rotary.__init__(rotary.config)  # type: ignore[misc]  # its frequencies were made on the meta device
    return model.eval()
