"""Plain generation: equal to the naive generator, honest about limits, and exact in what it samples."""

import copy
from collections.abc import Sequence

import pytest
import torch

from small4.chat import Sampling
from small4.engine.generator import PREFILL_CHUNK, ThoughtLimit, generate
from small4.engine.kv_cache import LatentCache
from small4.engine.sampler import Sampler, check_sampling, probabilities
from small4.engine.static_batch import generate_batch
from small4.errors import ContextLengthError, RequestError, SamplingError, VerificationError
from small4.model.transformer import Transformer
from small4.train.optim import initialise
from small4.train.presets import preset
from tests import naive


@pytest.fixture(scope="module")
def model() -> Transformer:
    config = preset("test").model
    model = Transformer(config)
    initialise(model, config.n_layers, seed=3)
    with torch.no_grad():
        model.tok_embeddings.weight.mul_(8.0)  # far-apart logits: greedy choices do not hang on rounding
    return model.requires_grad_(False)


def run(model: Transformer, prompt: Sequence[int], max_tokens: int, **options: object) -> list[int]:
    arguments = {"context_length": 2048, "sampling": Sampling(), "stop_ids": ()} | options
    return list(generate(model, prompt, max_tokens=max_tokens, **arguments))  # type: ignore[arg-type]


def prompt_of(length: int, seed: int) -> list[int]:
    return torch.randint(0, 3072, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


@pytest.mark.parametrize("length", [1, 2, 17, 130])
def test_greedy_generation_equals_the_naive_one(model: Transformer, length: int) -> None:
    prompt = prompt_of(length, length)
    assert run(model, prompt, 12) == naive.generate(model, prompt, max_tokens=12)


def test_a_prompt_longer_than_a_chunk_equals_the_naive_one(model: Transformer) -> None:
    prompt = prompt_of(PREFILL_CHUNK + 9, 5)
    assert run(model, prompt, 3) == naive.generate(model, prompt, max_tokens=3)


def test_a_batch_side_by_side_equals_each_sequence_alone(model: Transformer) -> None:
    prompts = [prompt_of(length, length) for length in (3, 40, 11, 1)]
    stop_id = naive.generate(model, prompts[1], max_tokens=5)[4]  # ends one sequence before the others
    together = generate_batch(model, prompts, max_tokens=9, context_length=2048, stop_id=stop_id)
    assert together == [run(model, prompt, 9, stop_ids=(stop_id,)) for prompt in prompts]
    assert len({len(output) for output in together}) > 1


def test_generation_ends_with_the_stop_id_or_at_the_limit(model: Transformer) -> None:
    prompt = prompt_of(20, 1)
    free = run(model, prompt, 8)
    stop_id = free[3]
    assert run(model, prompt, 8, stop_ids=(stop_id,)) == free[: free.index(stop_id) + 1]
    assert len(free) == 8


def test_a_prompt_over_the_limit_names_both_numbers(model: Transformer) -> None:
    with pytest.raises(ContextLengthError, match=r"90 tokens .* 20 more, the limit is 100"):
        run(model, prompt_of(90, 1), 20, context_length=100)


def test_a_bad_request_raises_at_the_call_not_at_the_first_token(model: Transformer) -> None:
    with pytest.raises(ContextLengthError):
        generate(model, [1, 2, 3], max_tokens=9, context_length=4, sampling=Sampling())


def test_damaged_weights_are_refused_instead_of_answered_from(model: Transformer) -> None:
    damaged = copy.deepcopy(model)
    damaged.norm.weight.data[0] = float("nan")
    with pytest.raises(VerificationError, match="small4 verify"):
        run(damaged, [1, 2], 3)


@pytest.mark.parametrize(("prompt", "max_tokens"), [([], 4), ([5, 3072], 4), ([-1], 4), ([5], 0)])
def test_a_prompt_that_cannot_run_is_refused(model: Transformer, prompt: list[int], max_tokens: int) -> None:
    with pytest.raises((RequestError, SamplingError)):
        run(model, prompt, max_tokens)


def test_the_same_seed_draws_the_same_tokens(model: Transformer) -> None:
    prompt = prompt_of(10, 2)
    hot = Sampling(temperature=2.0, seed=11)
    assert run(model, prompt, 20, sampling=hot) == run(model, prompt, 20, sampling=hot)
    assert run(model, prompt, 20, sampling=hot) != run(model, prompt, 20, sampling=Sampling(temperature=2.0, seed=12))


def test_a_thought_is_closed_when_its_budget_is_spent() -> None:
    limit = ThoughtLimit(2, open_id=34, close_id=35)
    assert [limit.apply(token) for token in (34, 7, 8, 9, 9, 9)] == [34, 7, 8, 35, 9, 9]


def test_a_thought_within_its_budget_is_left_alone() -> None:
    limit = ThoughtLimit(2, open_id=34, close_id=35)
    assert [limit.apply(token) for token in (34, 7, 8, 35, 9)] == [34, 7, 8, 35, 9]


def test_a_budget_of_nothing_closes_at_once() -> None:
    assert [ThoughtLimit(0, 34, 35, is_open=True).apply(7)] == [35]


def test_a_negative_budget_is_refused() -> None:
    with pytest.raises(SamplingError, match="budget"):
        ThoughtLimit(-1, 34, 35)


LOGITS = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(temperature=1.0), [0.5, 0.3, 0.15, 0.05]),
        (Sampling(temperature=0.5), [0.6849, 0.2466, 0.0616, 0.0068]),
        (Sampling(temperature=1.0, top_k=2), [0.625, 0.375, 0, 0]),
        (Sampling(temperature=1.0, top_p=0.8), [0.625, 0.375, 0, 0]),
        (Sampling(temperature=1.0, top_p=0.81), [0.5263, 0.3158, 0.1579, 0]),
        (Sampling(temperature=1.0, min_p=0.3), [0.5263, 0.3158, 0.1579, 0]),
        (Sampling(temperature=1.0, top_p=1e-6), [1.0, 0, 0, 0]),
    ],
)
def test_filters_keep_what_their_definition_says(sampling: Sampling, expected: list[float]) -> None:
    torch.testing.assert_close(probabilities(LOGITS, sampling), torch.tensor(expected), atol=1e-4, rtol=0)


def test_draws_follow_the_distribution() -> None:
    sampler = Sampler(Sampling(temperature=1.0, seed=0))
    draws = torch.bincount(torch.tensor([sampler(LOGITS) for _ in range(4000)]), minlength=4) / 4000
    torch.testing.assert_close(draws, LOGITS.exp(), atol=0.03, rtol=0)


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=-0.1),
        Sampling(temperature=float("nan")),
        Sampling(top_p=0.0),
        Sampling(top_p=1.5),
        Sampling(top_k=0),
        Sampling(min_p=-1.0),
        Sampling(seed=-1),
    ],
)
def test_a_parameter_out_of_range_is_named(sampling: Sampling) -> None:
    with pytest.raises(SamplingError, match="it must be"):
        check_sampling(sampling)


def test_the_cache_grows_and_forgets(model: Transformer) -> None:
    cache = LatentCache(model.config, 1000, torch.float32)
    rows = torch.randn(300, model.config.kv_width)
    latent, rope_key = rows.split([model.config.kv_lora_rank, model.config.qk_rope_head_dim], dim=-1)
    cache.write(0, latent[:200], rope_key[:200])
    cache.advance(200)
    held = cache.write(0, latent[200:], rope_key[200:])[:, : latent.shape[1]]
    assert torch.equal(held, latent)
    cache.truncate(50)
    held = cache.write(0, latent[50:60], rope_key[50:60])[:, : latent.shape[1]]
    assert torch.equal(held, latent[:60])


def test_a_full_cache_names_its_size(model: Transformer) -> None:
    cache = LatentCache(model.config, 4, torch.float32)
    with pytest.raises(ContextLengthError, match="holds 4 tokens, 5"):
        cache.write(0, torch.zeros(5, model.config.kv_lora_rank), torch.zeros(5, model.config.qk_rope_head_dim))
