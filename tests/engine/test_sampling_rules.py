"""What a sampling may hold: every field in its range, no two that contradict each other."""

from dataclasses import replace
from typing import Any

import pytest

from small4.chat import EFFORTS, Sampling
from small4.engine.sampling_rules import check_sampling, default_sampling, ending_ids
from small4.errors import EffortError, SamplingError

WORST: tuple[Any, ...] = (float("nan"), float("inf"), -float("inf"), 10**308, -(10**5000), 10**5000, "1", b"", [], True)
RANGES: dict[str, tuple[float | int, float | int | None]] = {
    "temperature": (0.0, 5.0),
    "min_p": (0.0, 1.0),
    "repetition_penalty": (0.1, 10.0),
    "presence_penalty": (-2.0, 2.0),
    "frequency_penalty": (-2.0, 2.0),
    "top_k": (1, None),
    "seed": (0, 2**63 - 1),
    "logprobs": (0, 20),
    "min_tokens": (0, None),
}


def outside(low: float | int, high: float | int | None) -> list[float | int]:
    step = 1 if isinstance(low, int) else 1e-9
    return [low - step] if high is None else [low - step, high + step]


@pytest.mark.parametrize("name", RANGES)
def test_a_field_may_go_to_both_ends_of_its_range_and_no_further(name: str) -> None:
    low, high = RANGES[name]
    check_sampling(replace(Sampling(), **{name: low}))
    check_sampling(replace(Sampling(), **{name: 10**6 if high is None else high}))
    for value in outside(low, high):
        with pytest.raises(SamplingError, match=f"{name} is .* it must be"):
            check_sampling(replace(Sampling(), **{name: value}))


@pytest.mark.parametrize("name", [*RANGES, "top_p", "logit_bias"])
def test_what_is_no_such_number_is_refused_in_a_short_message(name: str) -> None:
    is_open_above = name in ("top_k", "min_tokens")
    for value in WORST:
        if is_open_above and isinstance(value, int) and not isinstance(value, bool) and value > 0:
            continue
        with pytest.raises(SamplingError, match=name) as caught:
            check_sampling(replace(Sampling(), **{name: value}))
        assert len(str(caught.value)) < 200


@pytest.mark.parametrize("top_p", [0.0, -0.1, 1.0000001, float("nan")])
def test_top_p_lies_above_zero(top_p: float) -> None:
    with pytest.raises(SamplingError, match="top_p"):
        check_sampling(Sampling(top_p=top_p))


@pytest.mark.parametrize("bias", [((3072, 1.0),), ((-1, 1.0),), ((True, 1.0),), ((2**63, 1.0),), ((5.0, 1.0),)])
def test_a_biased_id_must_be_in_the_vocabulary(bias: Any) -> None:
    with pytest.raises(SamplingError, match=r"token id of logit_bias .* from 0 to 3071"):
        check_sampling(Sampling(logit_bias=bias), vocab_size=3072)


@pytest.mark.parametrize("value", [100.1, -101, float("nan"), "5", None])
def test_a_bias_stays_within_a_hundred(value: Any) -> None:
    check_sampling(Sampling(logit_bias=((5, -100), (6, 100.0))), vocab_size=3072)
    with pytest.raises(SamplingError, match="logit_bias of token 5"):
        check_sampling(Sampling(logit_bias=((5, value),)), vocab_size=3072)


def test_biases_are_few_and_name_a_token_once() -> None:
    check_sampling(Sampling(logit_bias=tuple((token_id, 1.0) for token_id in range(1024))))
    with pytest.raises(SamplingError, match="1025 tokens, the limit is 1024"):
        check_sampling(Sampling(logit_bias=tuple((token_id, 1.0) for token_id in range(1025))))
    with pytest.raises(SamplingError, match="twice"):
        check_sampling(Sampling(logit_bias=((5, 1.0), (5, 2.0))))


def test_more_tokens_than_may_come_cannot_be_asked_for() -> None:
    check_sampling(Sampling(min_tokens=8), max_tokens=8)
    with pytest.raises(SamplingError, match="min_tokens is 9, but max_tokens ends the answer after 8"):
        check_sampling(Sampling(min_tokens=9), max_tokens=8)


def test_greedy_with_filters_and_a_seed_is_no_contradiction() -> None:
    check_sampling(Sampling(temperature=0.0, top_p=0.9, top_k=40, min_p=0.1, seed=7))


@pytest.mark.parametrize("effort", EFFORTS)
def test_the_default_of_every_effort_is_allowed(effort: Any) -> None:
    check_sampling(default_sampling(effort))


def test_defaults_are_those_of_the_releases_card() -> None:
    assert default_sampling("high", seed=3) == Sampling(temperature=0.7, seed=3)
    assert default_sampling("none") == Sampling(temperature=0.1)
    with pytest.raises(EffortError, match="none, high"):
        default_sampling("medium")  # type: ignore[arg-type]


def test_an_ignored_end_is_no_stop_id() -> None:
    assert ending_ids(Sampling(), (2, 7), 2) == {2, 7}
    assert ending_ids(Sampling(ignore_eos=True), (2, 7), 2) == {7}
