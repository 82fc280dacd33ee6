"""Sampled sequences on the engine: the tokens of the definition, one by one, whatever company, chunks and drafts."""

from random import Random

import numpy as np
import pytest
import torch

from small4.chat import Sampling
from small4.engine.config import EngineConfig
from small4.engine.draw_state import DrawState
from small4.engine.engine import Engine, GenerationRequest
from small4.engine.sampler import probabilities
from small4.engine.thought import ThoughtLimit
from small4.model.attention import FullAttention
from small4.model.transformer import Transformer
from tests.engine.tiny import even_clock, kindred_head, random_prompt, strange_head, tiny_model

OPEN, CLOSE, STOP = 34, 35, 2


@pytest.fixture(scope="module")
def model() -> Transformer:
    return tiny_model()


def limit_of(budget: int | None) -> ThoughtLimit:
    return ThoughtLimit(budget, OPEN, CLOSE, is_open=True)


@torch.inference_mode()
def by_definition(
    model: Transformer, prompt: list[int], max_tokens: int, sampling: Sampling, index: int, budget: int | None
) -> list[int]:
    """No cache, no batch, no drafts: the distribution of every token from the whole sequence, and its own uniform."""
    state = DrawState(sampling, vocab_size=3072, prompt_ids=prompt, stop_ids=[STOP], index=index)
    thought, tokens = limit_of(budget), list(prompt)
    while len(tokens) < len(prompt) + max_tokens:
        logits_W = model(torch.tensor(tokens), torch.arange(len(tokens)), FullAttention([len(tokens)]), ())[-1]
        drawn = int(np.flatnonzero(probabilities(logits_W, state).cumsum() > state.uniform)[0])
        tokens.append(thought.apply(drawn))
        state.advance(tokens[-1])
        if tokens[-1] == STOP:
            break
    return tokens[len(prompt) :]


def some_sampling(rng: Random) -> Sampling:
    return Sampling(
        temperature=rng.choice([0.0, 0.7, 1.0, 2.0]),
        top_p=rng.choice([0.8, 1.0]),
        top_k=rng.choice([None, 20]),
        min_p=rng.choice([0.0, 0.05]),
        seed=rng.randrange(2**63),
        repetition_penalty=rng.choice([1.0, 1.3]),
        presence_penalty=rng.choice([0.0, 0.5]),
        frequency_penalty=rng.choice([0.0, -0.5]),  # invites repetition, so that drafts are accepted
        logit_bias=rng.choice([(), ((STOP, 6.0), (7, 4.0))]),
        min_tokens=rng.choice([0, 6]),
    )


def play(model: Transformer, seed: int) -> int:
    """Run sampled requests of many kinds side by side; the number of drafts that were accepted."""
    rng = Random(seed)
    block_bytes = 4 * model.config.n_layers * model.config.kv_width * 4
    config = EngineConfig(
        block_size=4,
        cache_bytes=60 * block_bytes,
        max_step_tokens=rng.choice([8, 64]),
        max_running=5,
        max_draft_tokens=rng.choice([0, 4]),
    )
    head = rng.choice([None, kindred_head, strange_head])
    draft_head = None if head is None else head(model)
    engine = Engine(model, config, context_length=256, draft_head=draft_head, clock=even_clock())
    shared = random_prompt(rng, 5) * 3
    asked = []
    for _ in range(4):
        prompt = shared[: rng.randint(3, 15)] + random_prompt(rng, rng.randint(1, 12))
        sampling, budget, max_tokens = some_sampling(rng), rng.choice([None, 0, 4]), rng.choice([6, 14])
        request = GenerationRequest(
            prompt=prompt,
            max_tokens=max_tokens,
            sampling=sampling,
            thought=lambda budget=budget: limit_of(budget),  # type: ignore[misc]
            num_sequences=rng.choice([1, 2]),
            stop_ids=frozenset({STOP}),
        )
        asked.append((engine.submit(request), prompt, max_tokens, sampling, budget))
        engine.step()
    engine.run_to_end()
    for sequences, prompt, max_tokens, sampling, budget in asked:
        for index, sequence in enumerate(sequences):
            assert sequence.error is None
            assert sequence.output == by_definition(model, prompt, max_tokens, sampling, index, budget)
    return 0 if engine.speculation is None else engine.speculation.num_accepted


def test_every_sampled_schedule_gives_the_tokens_of_the_definition(model: Transformer) -> None:
    assert sum(play(model, seed) for seed in range(4, 8)) > 0, "no draft was ever accepted"


@pytest.mark.slow
@pytest.mark.parametrize("first", range(8, 300, 73))
def test_hundreds_of_sampled_schedules_give_the_tokens_of_the_definition(model: Transformer, first: int) -> None:
    for seed in range(first, first + 73):
        play(model, seed)
