"""The engine gives every sequence the tokens of the naive generator, whatever runs beside it."""

from collections.abc import Sequence as Items
from dataclasses import replace
from random import Random

import numpy as np
import pytest
import torch

from small4.chat import Sampling
from small4.engine.config import EngineConfig
from small4.engine.engine import Engine, GenerationRequest
from small4.engine.kv_cache import plan_cache
from small4.engine.scheduler import Run
from small4.engine.speculative import Speculation
from small4.engine.thought import ThoughtLimit
from small4.errors import (
    BusyError,
    CacheTooSmallError,
    ContextLengthError,
    MemoryBudgetError,
    NonFiniteLogitsError,
    RequestError,
    SamplingError,
)
from small4.kernels.pages import Pages
from small4.model.transformer import Transformer
from tests import naive
from tests.engine.tiny import PROMPTS, Eager, Expected, engine_of, random_prompt, submit, tiny_model


@pytest.fixture(scope="module")
def model() -> Transformer:
    return tiny_model()


@pytest.fixture(scope="module")
def expected(model: Transformer) -> Expected:
    return Expected(model)


def test_a_second_prompt_with_the_same_beginning_computes_only_its_end(model: Transformer) -> None:
    engine = engine_of(model)
    prompt = PROMPTS[0][:40]
    submit(engine, [*prompt, 7], 2)
    engine.run_to_end()
    again = submit(engine, [*prompt, 9], 2)
    engine.run_to_end()
    assert again.num_cached == 40
    assert again.output == naive.generate(model, [*prompt, 9], max_tokens=2)


def test_a_fully_cached_prompt_still_runs_its_last_token(model: Transformer) -> None:
    engine = engine_of(model)
    first = submit(engine, PROMPTS[0][:40], 3)
    engine.run_to_end()
    again = submit(engine, PROMPTS[0][:40], 3)
    engine.run_to_end()
    assert again.num_cached == 36
    assert again.output == first.output


def test_another_salt_shares_nothing(model: Transformer) -> None:
    engine = engine_of(model)
    submit(engine, PROMPTS[0][:40], 2, salt=b"one caller")
    engine.run_to_end()
    again = submit(engine, PROMPTS[0][:40], 2, salt=b"another")
    engine.run_to_end()
    assert again.num_cached == 0


def test_the_sequences_of_a_request_share_its_prompt_even_without_a_prefix_cache(model: Transformer) -> None:
    engine = engine_of(model, has_prefix_cache=False)
    request = GenerationRequest(prompt=PROMPTS[0][:40], max_tokens=4, num_sequences=8)
    engine.submit(request)
    engine.step()
    engine.step()
    used = engine.cache_plan.num_blocks - engine.scheduler.pool.num_free
    assert engine.num_running == 8
    assert used <= 9 + 8 * 2  # nine full blocks of the prompt once; the rest of it and the output for each


def test_a_prompt_longer_than_a_step_runs_in_chunks_beside_decoding(model: Transformer, expected: Expected) -> None:
    engine = engine_of(model, num_blocks=128, max_step_tokens=16, max_running=4)
    short, long = random_prompt(Random(1), 5), random_prompt(Random(2), 150)
    decoding, chunked = submit(engine, short, 30), submit(engine, long, 3)
    before = []
    while chunked.num_output == 0:
        before.append(decoding.num_output)
        engine.step()
    assert before == sorted(set(before)), "the one that decodes gets a token in every step"
    engine.run_to_end()
    assert decoding.output == expected(short, 30)
    assert chunked.output == expected(long, 3)


def test_one_failing_sequence_ends_alone(model: Transformer, expected: Expected) -> None:
    class Broken(ThoughtLimit):
        def apply(self, token_id: int) -> int:
            raise ValueError("a bug in this sequence's rules")

    engine = engine_of(model)
    good = submit(engine, PROMPTS[1], 6)
    bad = submit(engine, PROMPTS[2], 6, thought=lambda: Broken(None, 34, 35))
    engine.run_to_end()
    assert (bad.finish_reason, str(bad.error)) == ("error", "a bug in this sequence's rules")
    assert good.output == expected(PROMPTS[1], 6)


def test_a_pass_that_fails_for_one_sequence_leaves_the_others(model: Transformer, expected: Expected) -> None:
    engine = engine_of(model)
    good = submit(engine, PROMPTS[1], 6)
    bad = submit(engine, PROMPTS[2], 6, images=[torch.zeros(3, 28, 28)])  # this model has no image encoder
    engine.run_to_end()
    assert bad.finish_reason == "error"
    assert "image encoder" in str(bad.error)
    assert good.output == expected(PROMPTS[1], 6)
    assert engine.scheduler.pool.num_free == engine.cache_plan.num_blocks


def test_a_bug_in_drawing_one_row_ends_that_sequence_alone(model: Transformer, expected: Expected) -> None:
    engine = engine_of(model)
    others = [submit(engine, prompt, 6) for prompt in PROMPTS[:3]]
    bad = submit(engine, PROMPTS[3], 6, sampling=Sampling(presence_penalty=0.5))
    bad.steering.state.counts_W = np.ones(9999, dtype=np.int32)  # wider than the vocabulary
    engine.run_to_end()
    assert isinstance(bad.error, IndexError)
    assert [sequence.output for sequence in others] == [expected(prompt, 6) for prompt in PROMPTS[:3]]
    assert engine.scheduler.pool.num_free == engine.cache_plan.num_blocks


def test_scores_that_are_no_numbers_end_their_sequence_by_name(model: Transformer, expected: Expected) -> None:
    damaged = tiny_model()
    damaged.tok_embeddings.weight.data[77] = float("nan")  # only a prompt with this token meets it
    # Tied embeddings would carry it into every score; here only the input is damaged.
    damaged.logits = lambda hidden_TD: hidden_TD @ model.tok_embeddings.weight.T  # type: ignore[method-assign]
    engine = engine_of(damaged)
    good, bad = submit(engine, PROMPTS[1], 6), submit(engine, [5, 77, 9], 6)
    engine.run_to_end()
    assert isinstance(bad.error, NonFiniteLogitsError)
    assert good.output == expected(PROMPTS[1], 6)


def test_damaged_rows_that_others_left_in_blocks_reach_nobody(model: Transformer, expected: Expected) -> None:
    engine = engine_of(model)
    for layer in engine.runner.cache.layers:
        layer.fill_(float("nan"))
    sequences = [submit(engine, prompt, 6) for prompt in PROMPTS]
    engine.run_to_end()
    assert [sequence.output for sequence in sequences] == [expected(prompt, 6) for prompt in PROMPTS]


@pytest.mark.parametrize(
    ("prompt", "max_tokens", "error", "message"),
    [
        ([], 4, RequestError, "empty"),
        ([1, 3072], 4, RequestError, "3072 is not in the vocabulary"),
        ([1.0] * 8, 4, RequestError, "token id 1.0 is not in the vocabulary"),
        ([2**70], 4, RequestError, "is not in the vocabulary"),
        ([1], 0, SamplingError, "at least 1"),
        ([1] * 200, 57, ContextLengthError, "200 tokens .* 57 more, the limit is 256"),
        ([1] * 200, 50, CacheTooSmallError, "250 tokens of cache, which holds 120"),
    ],
)
def test_what_can_never_run_is_refused_at_once(
    model: Transformer, prompt: list[int], max_tokens: int, error: type[Exception], message: str
) -> None:
    engine = engine_of(model, num_blocks=30)
    with pytest.raises(error, match=message):
        submit(engine, prompt, max_tokens)
    assert engine.num_waiting == 0


def test_a_full_line_refuses_with_its_limit(model: Transformer) -> None:
    engine = engine_of(model, max_waiting=2)
    submit(engine, [1], 1)
    submit(engine, [1], 1)
    with pytest.raises(BusyError, match="the limit is 2"):
        submit(engine, [1], 1)


def test_a_cache_that_holds_no_block_says_how_much_is_missing(model: Transformer) -> None:
    with pytest.raises(MemoryBudgetError, match=r"are missing.*--cache"):
        Engine(model, EngineConfig(cache_bytes=100))


def test_a_cache_larger_than_free_memory_says_how_much_is_missing(model: Transformer) -> None:
    config = EngineConfig(cache_bytes=100_000, block_size=4)
    with pytest.raises(MemoryBudgetError, match=r"39,840 are missing.*--cache"):
        plan_cache(model.config, config, torch.float32, free_bytes=60_000, max_tokens=100_000)
    plan = plan_cache(model.config, config, torch.float32, free_bytes=60_000, max_tokens=20)
    assert plan.num_tokens == 20  # what can never be used is not taken, so it need not be there


def test_the_plan_of_the_cache_counts_every_byte(model: Transformer) -> None:
    engine = engine_of(model, num_blocks=64, block_size=4)
    held = sum(layer.numel() * layer.element_size() for layer in engine.runner.cache.layers)
    assert held == engine.cache_plan.size_bytes
    fp8 = Engine(model, EngineConfig(cache_format="fp8", cache_bytes=1_000_000, max_running=4), context_length=256)
    cache = fp8.runner.cache
    assert cache.scales is not None
    tensors = [*cache.layers, *cache.scales]
    assert sum(tensor.numel() * tensor.element_size() for tensor in tensors) == fp8.cache_plan.size_bytes


def test_an_fp8_cache_keeps_the_rows_to_its_precision(model: Transformer) -> None:
    engine = Engine(model, EngineConfig(cache_format="fp8", block_size=4, cache_bytes=100_000), context_length=64)
    cache, rows_TC = engine.runner.cache, torch.randn(9, model.config.kv_width)
    assert cache.scales is not None
    pages = Pages(
        rows_PBC=cache.layers[1],
        scales_PB=cache.scales[1],
        tables=torch.tensor([[1, 5, 0]], dtype=torch.int32),
        query_starts=torch.tensor([0, 9], dtype=torch.int32),
        context_lengths=torch.tensor([9], dtype=torch.int32),
        slots_T=torch.tensor([4, 5, 6, 7, 20, 21, 22, 23, 0]),
    )
    pages.store(rows_TC)
    torch.testing.assert_close(pages.rows(0, torch.float32), rows_TC, rtol=2**-4, atol=float(rows_TC.abs().max()) / 448)
    sequence = submit(engine, PROMPTS[0], 5)
    engine.run_to_end()
    assert sequence.num_output == 5


class Alternating:
    """A grammar of its own: even and odd ids by turns."""

    num_words = 96  # 3072 ids

    def __init__(self) -> None:
        self.accepted: list[int] = []

    def matcher(self) -> "Alternating":
        return Alternating()

    def fill_mask(self, masks: np.ndarray, row: int) -> None:
        masks[row] = 0x55555555 if len(self.accepted) % 2 == 0 else -0x55555556

    def accept(self, token_id: int) -> None:
        if token_id % 2 != len(self.accepted) % 2:
            raise GrammarBreach
        self.accepted.append(token_id)


class GrammarBreach(Exception):
    pass


@pytest.mark.parametrize("max_draft_tokens", [0, 4])
def test_a_grammar_holds_its_sequence_and_no_other(
    model: Transformer, expected: Expected, max_draft_tokens: int
) -> None:
    engine = engine_of(model, max_draft_tokens=max_draft_tokens)
    held = submit(engine, PROMPTS[5], 24, grammar=Alternating())
    free = submit(engine, PROMPTS[5], 12)
    engine.run_to_end()
    assert held.error is None
    assert [token % 2 for token in held.output] == [0, 1] * 12
    assert free.output == expected(PROMPTS[5], 12)


def test_nothing_is_drawn_behind_a_stop_id_that_was_a_draft(model: Transformer) -> None:
    class Ended(Alternating):
        def matcher(self) -> "Alternating":
            return Ended()

        def fill_mask(self, masks: np.ndarray, row: int) -> None:
            assert len(self.accepted) < 2, "asked for what may come behind the stop id"
            super().fill_mask(masks, row)

    class Twice:
        def __init__(self, token_id: int) -> None:
            self.token_id = token_id

        def propose(self, wishes: Items[tuple[Run, int]]) -> list[list[int]]:
            return [[self.token_id] * 2 for _ in wishes]

    engine = engine_of(model)
    first = submit(engine, PROMPTS[1], 2, grammar=Alternating())
    engine.run_to_end()
    stop_id = first.output[1]
    engine = engine_of(model)
    sequence = submit(engine, PROMPTS[1], 8, grammar=Ended(), stop_ids=frozenset({stop_id}))
    engine.speculation = Speculation(Twice(stop_id), Eager(2), engine.scheduler)
    engine.run_to_end()
    assert engine.speculation.num_drafted == 2
    assert (sequence.finish_reason, sequence.output) == ("stop", first.output)


def test_the_same_seed_gives_the_same_text_in_any_company(model: Transformer) -> None:
    hot = Sampling(temperature=1.5, top_p=0.95, seed=3, presence_penalty=0.5)
    alone = engine_of(model)
    first = submit(alone, PROMPTS[5], 20, sampling=hot)
    alone.run_to_end()
    crowded = engine_of(model, num_blocks=24, max_step_tokens=16, max_running=8, max_draft_tokens=4)
    for prompt in PROMPTS[:4]:
        submit(crowded, prompt, 15, sampling=Sampling(temperature=1.0))
    second = submit(crowded, PROMPTS[5], 20, sampling=hot)
    third = submit(crowded, PROMPTS[5], 20, sampling=replace(hot, seed=4))
    crowded.run_to_end()
    assert second.output == first.output
    assert third.output != first.output


def test_the_sequences_of_a_request_draw_differently_and_repeat_by_seed(model: Transformer) -> None:
    def ask() -> list[list[int]]:
        engine = engine_of(model)
        request = GenerationRequest(
            prompt=PROMPTS[1], max_tokens=10, num_sequences=3, sampling=Sampling(temperature=1.5, seed=9)
        )
        sequences = engine.submit(request)
        engine.run_to_end()
        return [sequence.output for sequence in sequences]

    outputs = ask()
    assert len({tuple(output) for output in outputs}) == 3
    assert outputs == ask()


def test_a_thought_is_closed_inside_a_batch_with_drafts(model: Transformer) -> None:
    engine = engine_of(model, max_draft_tokens=4)
    open_thought = submit(engine, PROMPTS[5], 12, thought=lambda: ThoughtLimit(3, 34, 35, is_open=True))
    free = submit(engine, PROMPTS[5], 12)
    engine.run_to_end()
    assert open_thought.output[:4] == [*free.output[:3], 35]


def test_log_probabilities_come_with_every_token(model: Transformer) -> None:
    engine = engine_of(model)
    sequence = submit(engine, PROMPTS[1], 5, sampling=Sampling(logprobs=2))
    draws = []
    while engine.num_running or engine.num_waiting:
        for output in engine.step():
            draws += output.draws
    assert [draw.token_id for draw in draws] == sequence.output
    for draw in draws:
        assert draw.logprob == draw.top[0][1] <= 0.0
        assert len(draw.top) == 2


def test_a_stop_id_ends_a_sequence_and_stands_in_its_output(model: Transformer, expected: Expected) -> None:
    wanted = expected(PROMPTS[1], 10)
    stop_id = wanted[4]
    engine = engine_of(model)
    sequence = submit(engine, PROMPTS[1], 10, stop_ids=frozenset({stop_id}))
    engine.run_to_end()
    assert sequence.finish_reason == "stop"
    assert sequence.output == wanted[: wanted.index(stop_id) + 1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_images_tell_prompts_of_equal_tokens_apart(model: Transformer, dtype: torch.dtype) -> None:
    engine = engine_of(model)
    keys = [
        submit(engine, PROMPTS[1], 2, images=[torch.full((3, 28, 28), value, dtype=dtype)]).root_key
        for value in (0.0, 1.0, 1.0)
    ]
    assert keys[0] != keys[1] == keys[2]
