"""What a `Sampling` may hold, and the defaults that the release recommends. Imports no torch.

Not contradictions: temperature 0 with top_p, top_k, min_p or a seed. The filters always keep the likeliest token, which
is then taken, so the answer is the one that they would have allowed. Many clients send such pairs with every request.
"""

from collections.abc import Collection, Sequence

from small4.chat import EFFORTS, TEMPERATURES, Effort, Sampling
from small4.errors import EffortError, SamplingError

MAX_TEMPERATURE = 5.0
MAX_LOGPROBS = 20  # alternatives per token, as OpenAI
MAX_BIASED_IDS = 1024
MAX_BIAS = 100.0  # either way, as OpenAI


def default_sampling(effort: Effort, *, seed: int | None = None) -> Sampling:
    """What the release recommends at this effort. A plain `Sampling()` is greedy whatever the effort."""
    if effort not in EFFORTS:
        raise EffortError(f"unknown effort {effort!r}; choose one of {', '.join(EFFORTS)}")
    return Sampling(temperature=TEMPERATURES[effort], seed=seed)


def check_sampling(sampling: Sampling, *, vocab_size: int | None = None, max_tokens: int | None = None) -> None:
    """Raise SamplingError for a field outside its range, and for fields that contradict each other.

    `vocab_size` (the width of the logits) and `max_tokens` are checked against where they are known.
    """
    _number("temperature", sampling.temperature, 0.0, MAX_TEMPERATURE)
    _number("top_p", sampling.top_p, 0.0, 1.0)
    _require(sampling.top_p > 0.0, "top_p", sampling.top_p, "above 0 and at most 1")
    _number("min_p", sampling.min_p, 0.0, 1.0)
    _whole("top_k", sampling.top_k, 1, None, optional=True)
    _whole("seed", sampling.seed, 0, 2**63 - 1, optional=True)
    _number("repetition_penalty", sampling.repetition_penalty, 0.1, 10.0)
    _number("presence_penalty", sampling.presence_penalty, -2.0, 2.0)
    _number("frequency_penalty", sampling.frequency_penalty, -2.0, 2.0)
    _whole("logprobs", sampling.logprobs, 0, MAX_LOGPROBS, optional=True)
    _whole("min_tokens", sampling.min_tokens, 0, None)
    _require(isinstance(sampling.ignore_eos, bool), "ignore_eos", sampling.ignore_eos, "true or false")
    _check_bias(sampling.logit_bias, vocab_size)
    if max_tokens is not None and sampling.min_tokens > max_tokens:
        raise SamplingError(
            f"min_tokens is {sampling.min_tokens}, but max_tokens ends the answer after {max_tokens}; "
            "lower min_tokens or raise max_tokens"
        )


def ending_ids(sampling: Sampling, stop_ids: Collection[int], eos_id: int) -> frozenset[int]:
    """The ids that end a generation: `stop_ids`, without `eos_id` where it is to be ignored."""
    return frozenset(stop_ids) - ({eos_id} if sampling.ignore_eos else set())


def _check_bias(bias: Sequence[tuple[int, float]], vocab_size: int | None) -> None:
    _require(isinstance(bias, tuple), "logit_bias", bias, "a tuple of pairs: token id, value")
    if len(bias) > MAX_BIASED_IDS:
        raise SamplingError(
            f"logit_bias has {len(bias)} tokens, the limit is {MAX_BIASED_IDS}; keep the ones that matter"
        )
    for token_id, value in bias:
        _whole("a token id of logit_bias", token_id, 0, None if vocab_size is None else vocab_size - 1)
        _number(f"logit_bias of token {token_id}", value, -MAX_BIAS, MAX_BIAS)
    if len({token_id for token_id, _ in bias}) < len(bias):
        raise SamplingError("logit_bias names a token twice; give every token one value")


def _number(name: str, value: object, low: float, high: float) -> None:
    holds = isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
    _require(holds, name, value, f"a number from {low:g} to {high:g}")


def _whole(name: str, value: object, low: int, high: int | None, *, optional: bool = False) -> None:
    if value is None and optional:
        return
    holds = isinstance(value, int) and not isinstance(value, bool) and low <= value and (high is None or value <= high)
    allowed = f"a whole number, at least {low}" if high is None else f"a whole number from {low} to {high}"
    _require(holds, name, value, allowed + (", or left out" if optional else ""))


def _require(holds: bool, name: str, value: object, allowed: str) -> None:
    if not holds:
        raise SamplingError(f"{name} is {_shown(value)}; it must be {allowed}")


def _shown(value: object) -> str:
    if isinstance(value, int) and value.bit_length() > 128:
        return f"an integer of {value.bit_length()} bits"  # Python refuses to print the longest ones
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}..."
