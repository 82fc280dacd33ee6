"""Logits -> one token id.

Order: temperature, top_k, top_p, min_p, then a draw. Temperature 0 takes the most likely token, the lowest id on a tie.

    p = softmax(logits / temperature)
    keep: the top_k largest; the smallest set of largest whose sum reaches top_p; those with p >= min_p * max p
"""

import torch
from torch import Tensor

from small4.chat import Sampling
from small4.errors import SamplingError


def check_sampling(sampling: Sampling) -> None:
    """Raise SamplingError for a parameter outside its range."""
    _require(0.0 <= sampling.temperature <= 5.0, "temperature", sampling.temperature, "0 to 5")
    _require(0.0 < sampling.top_p <= 1.0, "top_p", sampling.top_p, "above 0 and at most 1")
    _require(0.0 <= sampling.min_p <= 1.0, "min_p", sampling.min_p, "0 to 1")
    _require(sampling.top_k is None or sampling.top_k >= 1, "top_k", sampling.top_k, "at least 1, or left out")
    _require(sampling.seed is None or 0 <= sampling.seed < 2**63, "seed", sampling.seed, "0 to 2^63 - 1")


def _require(holds: bool, name: str, value: object, allowed: str) -> None:
    if not holds:
        raise SamplingError(f"{name} is {value}; it must be {allowed}")


def probabilities(logits_W: Tensor, sampling: Sampling) -> Tensor:
    """The distribution that is drawn from, float32 [W], after all filters; for temperature above 0."""
    scaled_W = logits_W.float() / sampling.temperature
    if sampling.top_k is not None and sampling.top_k < scaled_W.shape[0]:
        smallest_kept = scaled_W.topk(sampling.top_k).values[-1]
        scaled_W = scaled_W.masked_fill(scaled_W < smallest_kept, float("-inf"))
    p_W = scaled_W.softmax(-1)
    if sampling.top_p < 1.0:
        sorted_W, order_W = p_W.sort(descending=True, stable=True)
        before_W = sorted_W.cumsum(-1) - sorted_W  # what the more likely ones already hold
        dropped_W = torch.zeros_like(p_W, dtype=torch.bool).scatter(0, order_W, before_W >= sampling.top_p)
        p_W = p_W.masked_fill(dropped_W, 0.0)
    if sampling.min_p > 0.0:
        p_W = p_W.masked_fill(p_W < sampling.min_p * p_W.max(), 0.0)
    return p_W / p_W.sum()


class Sampler:
    """Draws the tokens of one generation; the same seed draws the same tokens from the same logits."""

    def __init__(self, sampling: Sampling) -> None:
        check_sampling(sampling)
        self.sampling = sampling
        self.generator = torch.Generator()
        if sampling.seed is None:
            self.generator.seed()
        else:
            self.generator.manual_seed(sampling.seed)

    def __call__(self, logits_W: Tensor) -> int:
        if self.sampling.temperature == 0.0:
            return int(logits_W.argmax())
        p_W = probabilities(logits_W.cpu(), self.sampling)
        return int(torch.multinomial(p_W, 1, generator=self.generator))
