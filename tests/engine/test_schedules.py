"""Random schedules: whatever runs beside a sequence, it gets the tokens of the naive generator."""

from collections import Counter
from random import Random

import pytest

from small4.engine.engine import GenerationRequest
from small4.engine.sequence import Priority, Sequence
from small4.model.transformer import Transformer
from tests.engine.tiny import PROMPTS, Expected, engine_of, even_clock, kindred_head, strange_head, tiny_model


@pytest.fixture(scope="module")
def model() -> Transformer:
    return tiny_model()


@pytest.fixture(scope="module")
def expected(model: Transformer) -> Expected:
    return Expected(model)


def play(model: Transformer, expected: Expected, seed: int) -> Counter[str]:
    """Run a random schedule, hold every sequence to the naive tokens, and count what happened on the way."""
    rng = Random(seed)
    head = rng.choice([None, None, strange_head, kindred_head])
    engine = engine_of(
        model,
        draft_head=None if head is None else head(model),
        clock=rng.choice([even_clock(), rng.random]),  # drafts always pay, or by whim
        num_blocks=rng.choice([20, 24, 64]),  # the fewest: two or three sequences at once, so that some are preempted
        max_step_tokens=rng.choice([8, 16, 64, 256]),
        max_running=rng.choice([2, 5, 8]),
        max_draft_tokens=rng.choice([0, 3, 6]),
        has_prefix_cache=rng.random() < 0.7,
    )
    alive: list[tuple[Sequence, list[int], int]] = []
    aborted = []
    for _ in range(rng.randint(3, 10)):
        prompt, max_tokens, count = rng.choice(PROMPTS), rng.choice([1, 5, 12, 30]), rng.choice([1, 1, 1, 3])
        request = GenerationRequest(
            prompt=prompt,
            max_tokens=max_tokens,
            num_sequences=count,
            caller=rng.choice("ab"),
            priority=rng.choice(list(Priority)),
        )
        alive += [(sequence, prompt, max_tokens) for sequence in engine.submit(request)]
        for _ in range(rng.randint(0, 6)):
            engine.step()
        if rng.random() < 0.2:
            victim = rng.choice(alive)
            engine.abort(victim[0])
            aborted.append(victim)
    engine.run_to_end()
    for sequence, prompt, max_tokens in alive:
        wanted = expected(prompt, max_tokens)
        if sequence.finish_reason == "aborted":
            assert sequence.output == wanted[: sequence.num_output]
        else:
            assert sequence.finish_reason == "length"
            assert sequence.output == wanted
    assert engine.scheduler.pool.num_free == engine.cache_plan.num_blocks
    speculation = engine.speculation
    num_accepted = 0 if speculation is None else speculation.num_accepted
    return Counter(
        sequences=len(alive),
        aborted=len(aborted),
        preempted=sum(sequence.num_preemptions > 0 for sequence, _, _ in alive),
        cached=sum(sequence.num_cached > 0 for sequence, _, _ in alive),
        looked_up=num_accepted if head is None else 0,
        guessed_strangely=speculation.num_verified if speculation and head is strange_head else 0,
        guessed_well=num_accepted if head is kindred_head else 0,
    )


def test_every_schedule_gives_the_naive_tokens(model: Transformer, expected: Expected) -> None:
    seen = sum((play(model, expected, seed) for seed in range(16)), Counter[str]())
    assert min(seen.values()) >= 3, f"schedules that miss what they are for: {seen}"


@pytest.mark.slow
@pytest.mark.parametrize("first", range(24, 500, 34))
def test_hundreds_of_schedules_give_the_naive_tokens(model: Transformer, expected: Expected, first: int) -> None:
    for seed in range(first, first + 34):
        play(model, expected, seed)
