"""A small model with far-apart logits, draft heads and an engine for it, and what the naive generator says."""

from collections.abc import Callable
from dataclasses import replace
from itertools import count
from math import prod
from random import Random

import torch

from small4.engine.config import EngineConfig
from small4.engine.draft_rule import DraftRule
from small4.engine.engine import Engine, GenerationRequest
from small4.engine.kv_cache import waiting_shape
from small4.engine.sequence import Sequence
from small4.model.config import DraftConfig
from small4.model.draft_head import DraftHead
from small4.model.transformer import Transformer
from small4.train.optim import initialise
from small4.train.presets import preset
from tests import naive


def tiny_model(seed: int = 3, **changes: object) -> Transformer:
    """The test preset's shape, with changes; greedy choices do not hang on rounding."""
    config = replace(preset("test").model, **changes)  # type: ignore[arg-type]
    model = Transformer(config)
    initialise(model, config.n_layers, seed=seed)
    with torch.no_grad():
        model.tok_embeddings.weight.mul_(8.0)
    return model.requires_grad_(False)


def strange_head(model: Transformer) -> DraftHead:
    """A draft head with random weights, whose guesses are nearly always wrong."""
    text = replace(model.config, moe=None, n_layers=2)
    head = DraftHead(DraftConfig(text=text))
    initialise(head, text.n_layers, seed=11)
    return head.requires_grad_(False)


def kindred_head(model: Transformer) -> DraftHead:
    """A draft head that leans to the token before, as the tiny model does; its layers have a smaller say."""
    head = strange_head(model)
    width = model.config.dim
    head.eagle_linear.weight.mul_(0.2)
    head.eagle_linear.weight[:, :width] += 4.0 * torch.eye(width)
    for block in head.layers:
        block.attention.wo.weight.mul_(0.5)
        block.feed_forward.w2.weight.mul_(0.5)
    return head


def random_prompt(rng: Random, length: int, num_ids: int = 3072) -> list[int]:
    return [rng.randrange(num_ids) for _ in range(length)]


def token_bytes(model: Transformer) -> int:
    return model.config.n_layers * model.config.kv_width * 4


class Eager(DraftRule):
    """Takes it that drafts always pay."""

    def length(self, sequence_id: int, limit: int) -> int:
        return min(limit, self.max_drafts)


def even_clock() -> Callable[[], float]:
    """Time that is the same for every step, so that drafts always pay."""
    return count().__next__


def engine_of(
    model: Transformer,
    num_blocks: int = 64,
    block_size: int = 4,
    *,
    draft_head: DraftHead | None = None,
    clock: Callable[[], float] | None = None,
    **options: object,
) -> Engine:
    config = EngineConfig(block_size=block_size, **options)  # type: ignore[arg-type]
    size = num_blocks * block_size * token_bytes(model)
    if draft_head is not None:
        text = draft_head.config.text
        size += num_blocks * block_size * text.n_layers * text.kv_width * 4 + prod(waiting_shape(text, config)) * 4
    config = replace(config, cache_bytes=size)
    return Engine(model, config, context_length=256, draft_head=draft_head, clock=clock or even_clock())


class Expected:
    """Naive continuations, each computed once."""

    def __init__(self, model: Transformer) -> None:
        self.model = model
        self.known: dict[tuple[int, ...], list[int]] = {}

    def __call__(self, prompt: list[int], max_tokens: int) -> list[int]:
        known = self.known.get(tuple(prompt), [])
        if len(known) < max_tokens:
            rest = naive.generate(self.model, prompt + known, max_tokens=max_tokens - len(known))
            known = self.known[tuple(prompt)] = known + rest
        return known[:max_tokens]


def submit(engine: Engine, prompt: list[int], max_tokens: int, **options: object) -> Sequence:
    return engine.submit(GenerationRequest(prompt=prompt, max_tokens=max_tokens, **options))[0]  # type: ignore[arg-type]


# Prompts that begin alike, so that blocks are shared, and that repeat themselves, so that drafts are accepted.
def some_prompts() -> list[list[int]]:
    rng = Random(5)
    base = random_prompt(rng, 40)
    loop = random_prompt(rng, 5) * 5
    return [
        base[:length] + random_prompt(rng, rest) for length, rest in [(40, 1), (24, 9), (8, 2), (0, 1), (0, 17)]
    ] + [
        loop,
        base + loop[:7],
    ]


PROMPTS = some_prompts()
