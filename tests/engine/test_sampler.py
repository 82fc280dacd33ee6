"""The sampler: what its definition says, the fast path equal to it, and every row as if it were alone."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from small4.chat import Sampling
from small4.engine.draw_state import DrawState, fresh_seed, uniform
from small4.engine.sampler import Draw, candidates, filtered, pick, probabilities, sample, score, weigh
from small4.errors import NonFiniteLogitsError, SamplingError

SIZE = 300
LOGITS = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()


def state_of(sampling: Sampling, size: int = SIZE, **options: Any) -> DrawState:
    return DrawState(sampling, vocab_size=size, **options)


def logits_of(seed: int, rows: int = 1, size: int = SIZE, spread: float = 2.0) -> torch.Tensor:
    """Random logits with many ties, as bf16 gives them."""
    random = torch.randn(rows, size, generator=torch.Generator().manual_seed(seed))
    return (spread * random).bfloat16().float()


def state_behind(tokens: list[int], sampling: Sampling, size: int = SIZE, **options: Any) -> DrawState:
    """A state that has emitted these."""
    state = state_of(sampling, size, **options)
    for token_id in tokens:
        state.advance(token_id)
    return state


def draw(logits_W: torch.Tensor, state: DrawState, mask: np.ndarray | None = None) -> Draw:
    [drawn] = sample(logits_W[None], [state], [mask])
    assert isinstance(drawn, Draw), drawn
    return drawn


def mask_of(allowed: list[int], size: int = SIZE) -> np.ndarray:
    words = np.zeros((size + 31) // 32, dtype=np.uint32)
    for token_id in allowed:
        words[token_id // 32] |= np.uint32(1 << token_id % 32)
    return words.view(np.int32)


# --- the definition, against numbers worked out by hand ---


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(temperature=0.0), [1, 0, 0, 0]),
        (Sampling(temperature=1.0), [0.5, 0.3, 0.15, 0.05]),
        (Sampling(temperature=0.5), [0.6849, 0.2466, 0.0616, 0.0068]),
        (Sampling(temperature=1e-300), [1, 0, 0, 0]),
        (Sampling(temperature=1.0, top_k=2), [0.625, 0.375, 0, 0]),
        (Sampling(temperature=1.0, top_k=10**30), [0.5, 0.3, 0.15, 0.05]),
        (Sampling(temperature=1.0, top_p=0.79), [0.625, 0.375, 0, 0]),
        (Sampling(temperature=1.0, top_p=0.81), [0.5263, 0.3158, 0.1579, 0]),
        (Sampling(temperature=1.0, top_k=2, top_p=0.6), [1, 0, 0, 0]),  # 0.625 of what top_k left
        (Sampling(temperature=1.0, min_p=0.29), [0.5263, 0.3158, 0.1579, 0]),
        (Sampling(temperature=1.0, top_p=1e-6), [1, 0, 0, 0]),
        (Sampling(temperature=1.0, logit_bias=((3, 100.0),)), [0, 0, 0, 1]),
        (Sampling(temperature=0.0, logit_bias=((0, -100.0),)), [0, 1, 0, 0]),
    ],
)
def test_the_distribution_is_what_the_definition_says(sampling: Sampling, expected: list[float]) -> None:
    np.testing.assert_allclose(probabilities(LOGITS, state_of(sampling, 4)), expected, atol=1e-4)


def test_of_equal_tokens_the_lower_ids_are_kept() -> None:
    equal = torch.zeros(8)
    for sampling in (Sampling(temperature=1.0, top_k=3), Sampling(temperature=1.0, top_p=0.37)):
        assert np.flatnonzero(probabilities(equal, state_of(sampling, 8))).tolist() == [0, 1, 2]
    assert draw(equal, state_of(Sampling(), 8)).token_id == 0


@pytest.mark.parametrize(("top_p", "count"), [(0.25, 1), (0.2500001, 2), (0.5, 2), (0.75, 3), (0.7500001, 4)])
def test_top_p_ends_where_its_part_is_reached_exactly(top_p: float, count: int) -> None:
    kept = np.flatnonzero(probabilities(torch.zeros(4), state_of(Sampling(temperature=1.0, top_p=top_p), 4)))
    assert kept.tolist() == list(range(count))


def test_repetition_divides_positive_scores_and_multiplies_negative_ones() -> None:
    sampling = Sampling(temperature=1.0, repetition_penalty=2.0)
    state = state_of(sampling, 4, prompt_ids=[0, 1, 9])  # 9: an id that is never drawn
    state.advance(2)
    state.advance(2)
    changed = torch.tensor([3.0 / 2, -1.0 * 2, 2.0 / 2, 2.0]).softmax(-1)
    np.testing.assert_allclose(
        probabilities(torch.tensor([3.0, -1.0, 2.0, 2.0]), state), changed.double().numpy(), atol=1e-7
    )


def test_presence_and_frequency_count_the_output_alone() -> None:
    sampling = Sampling(temperature=1.0, presence_penalty=0.5, frequency_penalty=0.25)
    state = state_of(sampling, 4, prompt_ids=[3])
    for token_id in (0, 0, 1):
        state.advance(token_id)
    changed = torch.tensor([1.0 - 0.5 - 2 * 0.25, 1.0 - 0.5 - 0.25, 1.0, 1.0]).softmax(-1)
    np.testing.assert_allclose(probabilities(torch.ones(4), state), changed.double().numpy(), atol=1e-7)


def test_penalties_change_greedy_choices_too() -> None:
    state = state_of(Sampling(frequency_penalty=1.0), 3)
    chosen = []
    for _ in range(5):
        chosen.append(draw(torch.tensor([3.5, 2.9, 0.0]), state).token_id)
        state.advance(chosen[-1])
    assert chosen == [0, 1, 0, 1, 0]


def test_stop_ids_wait_for_min_tokens() -> None:
    state = state_of(Sampling(min_tokens=2), 4, stop_ids=[2])
    logits_W = torch.tensor([1.0, 0.0, 5.0, 0.0])
    chosen = []
    for _ in range(3):
        chosen.append(draw(logits_W, state).token_id)
        state.advance(chosen[-1])
    assert chosen == [0, 0, 2]


def test_a_grammar_that_allows_only_the_end_outranks_min_tokens() -> None:
    state = state_of(Sampling(min_tokens=9), stop_ids=[2])
    assert draw(logits_of(1)[0], state, mask_of([2])).token_id == 2
    assert draw(logits_of(1)[0], state, mask_of([2, 5])).token_id == 5


# --- draws ---


SAMPLINGS = [
    Sampling(temperature=1.0),
    Sampling(temperature=0.7, top_p=0.9),
    Sampling(temperature=1.3, top_k=17, min_p=0.02),
    Sampling(
        temperature=2.0, top_k=40, top_p=0.8, repetition_penalty=1.3, presence_penalty=0.4, frequency_penalty=-0.3
    ),
]


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_twenty_thousand_draws_follow_the_distribution(sampling: Sampling) -> None:
    logits_W = logits_of(3, size=40)[0]
    state = state_of(replace(sampling, seed=5), 40, prompt_ids=[1, 2])
    for token_id in (3, 3, 4):
        state.advance(token_id)
    plain_W = probabilities(logits_W, state)
    by_definition = np.searchsorted(plain_W.cumsum(), [uniform(5, 0, position) for position in range(20_000)], "right")
    for position in range(1000):
        state.position = position
        assert draw(logits_W, state).token_id == by_definition[position]
    expected, counts = 20_000 * plain_W, np.bincount(by_definition, minlength=40)
    assert counts[expected == 0].sum() == 0
    often = expected >= 5
    chi_square = ((counts - expected)[often] ** 2 / expected[often]).sum()
    freedom = often.sum() - 1
    assert chi_square < freedom + 4 * np.sqrt(2 * freedom)  # passes for all but about one seed in ten thousand


def test_uniforms_are_even_and_hang_on_nothing_but_seed_index_and_position() -> None:
    numbers = [uniform(7, index, position) for index in range(4) for position in range(1000)]
    assert len(set(numbers)) == 4000
    assert min(numbers) >= 0.0
    assert max(numbers) < 1.0
    counts = np.bincount((np.array(numbers) * 10).astype(int), minlength=10)
    assert ((counts - 400) ** 2 / 400).sum() < 30
    assert uniform(7, 2, 17) == numbers[2017]
    assert uniform(0, 0, 0) == 0.13316979681242458  # another value is another text for every seed


def test_a_draw_takes_the_first_token_past_its_part_of_the_whole() -> None:
    weights = np.array([1.0, 0.0, 2.0, 1.0, 0.0])
    cases = {0.0: 0, 0.2499: 0, 0.25: 2, 0.7499: 2, 0.75: 3, 1 - 2**-53: 3}
    assert {part: pick(weights, part) for part in cases} == cases
    assert pick(np.array([0.0, 3e-310]), 1 - 2**-53) == 1


sampling_values = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 1e-9, 0.3, 1.0, 5.0]),
    top_p=st.sampled_from([1e-9, 0.1, 0.5, 0.75, 0.95, 1 - 1e-9, 1.0]),
    top_k=st.sampled_from([None, 1, 2, 7, 63, 64, 65, 10**9]),
    min_p=st.sampled_from([0.0, 1e-6, 0.1, 0.5, 1.0]),
    repetition_penalty=st.sampled_from([0.5, 1.0, 1.2]),
    presence_penalty=st.sampled_from([-2.0, 0.0, 1.0]),
    frequency_penalty=st.sampled_from([0.0, 0.5]),
    logit_bias=st.sampled_from([(), ((3, 100.0), (4, -100.0))]),
    logprobs=st.sampled_from([None, 0, 2, 20]),
    min_tokens=st.sampled_from([0, 5]),
    seed=st.integers(0, 2**63 - 1),
)
few_logits = st.lists(st.sampled_from([-50.0, -1.0, 0.0, 0.5, 1.0, 3.0, 40.0]), min_size=64, max_size=64)
few_ids = st.lists(st.integers(0, 63), max_size=8)


@given(few_logits, sampling_values)
def test_candidates_give_what_sorting_the_whole_vocabulary_gives(values: list[float], sampling: Sampling) -> None:
    weights_W = weigh(np.array(values), sampling.temperature or 1.0)
    plain = filtered(weights_W, sampling, np.arange(64))
    fast = filtered(weights_W, sampling, candidates(weights_W, sampling))
    assert plain.tolist() == fast.tolist()


@given(few_logits, sampling_values, few_ids, few_ids, st.one_of(st.none(), few_ids))
def test_the_fast_path_draws_by_the_definition(
    values: list[float], sampling: Sampling, prompt: list[int], output: list[int], allowed: list[int] | None
) -> None:
    logits_W = torch.tensor(values)
    mask = None if allowed is None else mask_of([*allowed, 9], 64)
    state = state_behind(output, sampling, 64, prompt_ids=prompt, stop_ids=[2])
    plain_W = probabilities(logits_W, state, mask)
    by_definition = int(np.flatnonzero(plain_W.cumsum() > state.uniform)[0])
    drawn = draw(logits_W, state, mask)
    assert drawn.token_id == by_definition
    assert mask is None or drawn.token_id in {*(allowed or []), 9}
    if sampling.logprobs is not None:
        logprobs_W = logits_W.double().log_softmax(-1)
        best = sorted(range(64), key=lambda token_id: (-values[token_id], token_id))[: sampling.logprobs]
        assert [token_id for token_id, _ in drawn.top] == best
        assert drawn.logprob == pytest.approx(float(logprobs_W[drawn.token_id]))
        assert [value for _, value in drawn.top] == pytest.approx(logprobs_W[best].tolist())


@pytest.mark.parametrize("size", [7, 32, 33, 3072, 32_768])
def test_the_fast_path_draws_by_the_definition_in_larger_vocabularies(size: int) -> None:
    for number, sampling in enumerate([*SAMPLINGS, Sampling(temperature=0.9, min_p=0.05), Sampling()]):
        logits_W = logits_of(number, size=size, spread=4.0)[0]
        for position in range(8):
            state = state_of(replace(sampling, seed=position), size)
            plain_W = probabilities(logits_W, state)
            assert draw(logits_W, state).token_id == np.flatnonzero(plain_W.cumsum() > state.uniform)[0]


# --- many rows ---


def mixed_batch() -> tuple[torch.Tensor, list[DrawState], list[np.ndarray | None]]:
    """A row of every kind, some twice."""
    kinds = [
        Sampling(),
        *SAMPLINGS,
        Sampling(logprobs=3),
        Sampling(repetition_penalty=1.5),
        Sampling(logit_bias=((4, 9.0),)),
        Sampling(min_tokens=3),
        Sampling(),
    ] * 2
    states = [
        state_behind([7, number], replace(sampling, seed=number), prompt_ids=[5], stop_ids=[2], index=number % 3)
        for number, sampling in enumerate(kinds)
    ]
    masks = [mask_of(list(range(number, SIZE, 7))) if number % 4 == 1 else None for number in range(len(states))]
    return logits_of(1, rows=len(states)), states, masks


def test_a_row_gives_the_same_draw_alone_and_in_any_company_and_order() -> None:
    logits_BW, states, masks = mixed_batch()
    alone = [draw(*row) for row in zip(logits_BW, states, masks, strict=True)]
    assert sample(logits_BW, states, masks) == alone
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(len(states))[: 3 + 4 * seed]
        together = sample(logits_BW[order], [states[row] for row in order], [masks[row] for row in order])
        assert together == [alone[row] for row in order]


def test_a_row_that_is_no_number_ends_alone() -> None:
    logits_BW, states, masks = mixed_batch()
    sound = sample(logits_BW, states, masks)
    for row, value in ((0, float("nan")), (3, float("inf")), (4, -float("inf")), (19, float("nan"))):
        damaged_BW = logits_BW.clone()
        damaged_BW[row, 11] = value
        draws = sample(damaged_BW, states, masks)
        assert isinstance(draws[row], NonFiniteLogitsError)
        assert draws[:row] + draws[row + 1 :] == sound[:row] + sound[row + 1 :]


def test_infinities_that_cancel_and_numbers_that_overflow_are_told_apart() -> None:
    logits_BW = torch.zeros(3, 4)
    logits_BW[0, :2] = torch.tensor([float("inf"), -float("inf")])
    logits_BW[1, :2] = 3e38  # finite, though the sum is not
    draws = sample(logits_BW, [state_of(Sampling(), 4)] * 3)
    assert [type(drawn) for drawn in draws] == [NonFiniteLogitsError, Draw, Draw]


def test_a_mask_that_allows_nothing_ends_its_row_alone() -> None:
    logits_BW = logits_of(2, rows=3)
    masks = [None, mask_of([]), mask_of([4])]
    for temperature in (0.0, 1.0):
        draws = sample(logits_BW, [state_of(Sampling(temperature=temperature, seed=1))] * 3, masks)
        assert isinstance(draws[1], SamplingError)
        assert isinstance(draws[0], Draw)
        assert draws[2] == Draw(4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_greedy_takes_the_lowest_of_equal_ids(dtype: torch.dtype) -> None:
    logits_BW = torch.zeros(3, 131_072, dtype=dtype)
    logits_BW[0, [131_000, 70_000, 90_000]] = 5.0
    logits_BW[1, [131_071, 12]] = 5.0
    assert [draw(row, state_of(Sampling(), 131_072)).token_id for row in logits_BW] == [70_000, 12, 0]


def test_a_short_mask_forbids_what_it_does_not_reach() -> None:
    logits_W = torch.arange(100.0)
    full = np.array([-1], dtype=np.int32)
    assert draw(logits_W, state_of(Sampling(), 100), full).token_id == 31
    assert draw(logits_W, state_of(Sampling(temperature=1e-9), 100), full).token_id == 31


def test_logprobs_are_those_of_the_model_whatever_changes_the_draw() -> None:
    changed = Sampling(temperature=0.5, top_k=1, logit_bias=((3, 100.0),), logprobs=2, repetition_penalty=3.0)
    drawn = draw(LOGITS, state_of(changed, 4, prompt_ids=[0]), mask_of([1, 3], 4))
    assert drawn.token_id == 3
    assert drawn.logprob == pytest.approx(float(np.log(0.05)))
    assert drawn.top == ((0, pytest.approx(float(np.log(0.5)))), (1, pytest.approx(float(np.log(0.3)))))
    assert score(LOGITS, 3, 2) == drawn
    assert score(LOGITS, 2, None) == Draw(2)


# --- seeds ---


def walk(state: DrawState, steps: int = 30) -> list[int]:
    tokens = []
    for step in range(steps):
        tokens.append(draw(logits_of(100 + step)[0], state).token_id)
        state.advance(tokens[-1])
    return tokens


def test_a_seed_repeats_its_text_and_every_sequence_of_it_has_its_own() -> None:
    hot = Sampling(temperature=1.5, seed=11)
    walks = [walk(state_of(hot, index=index)) for index in (0, 0, 1, 2)]
    assert walks[0] == walks[1]
    assert len({tuple(tokens) for tokens in walks}) == 3
    assert walk(state_of(replace(hot, seed=12))) != walks[0]


def test_a_fresh_seed_is_recorded_and_repeats_the_text() -> None:
    state = state_of(Sampling(temperature=1.5))
    tokens = walk(state)
    assert 0 <= state.seed < 2**63
    assert walk(state_of(Sampling(temperature=1.5, seed=state.seed))) == tokens
    assert len({fresh_seed() for _ in range(100)}) == 100
