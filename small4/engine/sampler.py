"""Logits -> token ids, one for each row of a batch, each row as if it were alone.

    scores     the logits; repetition penalty; less presence and frequency penalties; plus bias; -inf for what is banned
    weights    w = exp((score - best score) / temperature), float64; the best token weighs 1
    kept       in the order of weight, the lower id first on a tie: the top_k first ones; of these the shortest run
               whose weight reaches top_p of theirs; of these the tokens with w >= min_p
    drawn      in the order of ids: the first kept token at which the sum of weights exceeds u * (sum of all kept)

Temperature 0 takes the best score, the lowest id on a tie. u is the uniform of the sequence's next place
(`draw_state.py`), so a row gives the same token in any company, and a draft is verified by drawing with the target's
own u and comparing: exact for greedy, and true to the distribution for sampling.

`probabilities` is the definition. `sample` is the fast path: one argmax for all greedy rows, no sort of the vocabulary.
Log-probabilities are those of the model itself: before penalties, bans, temperature and filters.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from small4.chat import Sampling
from small4.engine.draw_state import DrawState
from small4.errors import NonFiniteLogitsError, SamplingError, Small4Error

PART = 64  # values of which only the best is looked at first


@dataclass(frozen=True, slots=True)
class Draw:
    """A token that was drawn, with log-probabilities if its sampling asks for them: its own, and the likeliest ones."""

    token_id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()  # id, log-probability; best first


def sample(
    logits_BW: Tensor, states: Sequence[DrawState], masks: Sequence[np.ndarray | None] | None = None
) -> list[Draw | Small4Error]:
    """The next token of every row; an error in place of a row that has none, which does not touch the others.

    A mask is a grammar's: bit i % 32 of int32 word i // 32 allows token i. States are read, not advanced.
    """
    logits_BW = logits_BW.detach().float()
    best_ids, is_finite = argmax(logits_BW), finite_rows(logits_BW)
    draws: list[Draw | Small4Error] = []
    for row, state in enumerate(states):
        mask = None if masks is None else masks[row]
        if not is_finite[row]:
            draws.append(not_finite())
        elif state.is_plain_greedy and state.sampling.logprobs is None and allows(mask, best_ids[row]):
            draws.append(Draw(best_ids[row]))
        else:
            draws.append(_draw(_as_array(logits_BW[row]), state, mask))
    return draws


def score(logits_W: Tensor, token_id: int, num_top: int | None) -> Draw:
    """A token that was forced, as a draw with its log-probabilities; `num_top` as `Sampling.logprobs`."""
    return _score(_as_array(logits_W), token_id, num_top)


def probabilities(logits_W: Tensor, state: DrawState, mask: np.ndarray | None = None) -> np.ndarray:
    """The distribution that the next token is drawn from, float64 [W]: the definition."""
    scores_W = scores(_as_array(logits_W), state, mask)
    probabilities_W = np.zeros_like(scores_W)
    if state.sampling.temperature == 0.0:
        probabilities_W[scores_W.argmax()] = 1.0
        return probabilities_W
    weights_W = weigh(scores_W, state.sampling.temperature)
    kept = filtered(weights_W, state.sampling, np.arange(len(weights_W)))
    probabilities_W[kept] = weights_W[kept] / weights_W[kept].sum()
    return probabilities_W


def argmax(logits_BW: Tensor) -> list[int]:
    """The best token of every row, the lowest id on a tie."""
    if logits_BW.device.type == "cpu":
        return [int(best) for best in _as_array(logits_BW).argmax(-1)]  # numpy's takes a tenth of the time of torch's
    return [int(best) for best in logits_BW.argmax(-1).tolist()]


def finite_rows(logits_BW: Tensor) -> list[bool]:
    """Which rows hold numbers only."""
    if logits_BW.device.type == "cpu":
        with np.errstate(invalid="ignore", over="ignore"):
            is_finite = np.isfinite(_as_array(logits_BW).sum(-1)).tolist()  # far cheaper than looking at each
    else:
        is_finite = logits_BW.sum(-1).isfinite().tolist()
    # A sum may also overflow.
    return [finite or bool(logits_BW[row].isfinite().all()) for row, finite in enumerate(is_finite)]


def not_finite() -> NonFiniteLogitsError:
    """The error of a row whose logits are not numbers."""
    return NonFiniteLogitsError(
        "the model's scores are not finite: its weights or this input are damaged; `small4 verify` checks the weights"
    )


def scores(logits_W: np.ndarray, state: DrawState, mask: np.ndarray | None) -> np.ndarray:
    """Float64 [W]: logits after penalties, bias and bans."""
    scores_W, sampling = logits_W.astype(np.float64), state.sampling
    if state.is_seen_W is not None:
        seen, penalty = np.flatnonzero(state.is_seen_W), sampling.repetition_penalty
        scores_W[seen] = np.where(scores_W[seen] > 0, scores_W[seen] / penalty, scores_W[seen] * penalty)
    if state.counts_W is not None:
        used = np.flatnonzero(state.counts_W)
        scores_W[used] -= sampling.presence_penalty + sampling.frequency_penalty * state.counts_W[used]
    scores_W[state.bias_ids] += state.biases
    if mask is not None:
        scores_W[~unpack(mask, len(scores_W))] = -np.inf
    if state.must_go_on:
        going_W = scores_W.copy()
        going_W[state.stop_ids] = -np.inf
        # A grammar that has come to its end allows nothing but a stop id; it outranks min_tokens.
        return going_W if going_W.max() > -np.inf else scores_W
    return scores_W


def unpack(mask: np.ndarray, vocab_size: int) -> np.ndarray:
    """A mask as one truth per token; those beyond its last word are not allowed."""
    bits = np.unpackbits(mask.view(np.uint8), bitorder="little", count=min(vocab_size, 32 * len(mask)))
    return np.pad(bits, (0, vocab_size - len(bits))).view(np.bool_)


def allows(mask: np.ndarray | None, token_id: int) -> bool:
    """Whether a mask lets one token pass."""
    if mask is None:
        return True
    return token_id < 32 * len(mask) and bool(int(mask[token_id // 32]) >> (token_id % 32) & 1)


def weigh(scores_W: np.ndarray, temperature: float) -> np.ndarray:
    """exp((score - best) / temperature): the best weighs 1, and nothing overflows however small the temperature."""
    weights_W = torch.from_numpy(scores_W - scores_W.max())
    weights: np.ndarray = weights_W.div_(temperature).exp_().numpy()  # torch takes a fraction of numpy's time
    return weights


def filtered(weights_W: np.ndarray, sampling: Sampling, ids: np.ndarray) -> np.ndarray:
    """Those of `ids` (rising; at least all that pass) that top_k, top_p and min_p keep."""
    ids = ids[weights_W[ids] > 0.0]
    order = ids[np.argsort(-weights_W[ids], kind="stable")]
    total, top_k = weights_W.sum(), _top_k(sampling, len(weights_W))
    if top_k is not None:
        order = order[:top_k]
        total = weights_W[order].sum()
    if sampling.top_p < 1.0:
        sums_before = np.concatenate([[0.0], weights_W[order[:-1]].cumsum()])
        order = order[sums_before < sampling.top_p * total]
    return np.sort(order[weights_W[order] >= sampling.min_p])


def candidates(weights_W: np.ndarray, sampling: Sampling) -> np.ndarray:
    """Ids (rising) among which are all that `filtered` keeps; mostly few, which spares it the long sort."""
    top_k = _top_k(sampling, len(weights_W))
    if top_k is not None:
        return largest(weights_W, top_k)
    # All tokens under (1 - top_p) / W of the total weigh less than 1 - top_p together: the run ends before them. The
    # half is for rounding.
    lightest = max(0.5 * (1.0 - sampling.top_p) * weights_W.sum() / len(weights_W), sampling.min_p)
    return np.flatnonzero(weights_W >= lightest)


def largest(values_W: np.ndarray, count: int) -> np.ndarray:
    """Places (rising) that hold the `count` largest values, with all that equal the last of them; mostly few more.

    Of as many parts, each has a value no less than the count-th of the parts' best: that bounds the values from below.
    """
    whole_W = torch.from_numpy(values_W)
    parts = whole_W[: len(whole_W) // PART * PART].view(-1, PART).amax(1).numpy()
    some = parts if count <= len(parts) else values_W
    return np.flatnonzero(values_W >= np.partition(some, -count)[-count])


def pick(weights: np.ndarray, uniform: float) -> int:
    """The first place at which the sum of weights exceeds that part of the whole."""
    sums = torch.from_numpy(weights).cumsum(0).numpy()
    target = min(uniform * sums[-1], np.nextafter(sums[-1], 0.0))  # the product may round up to the whole
    return int(sums.searchsorted(target, side="right"))


def _draw(logits_W: np.ndarray, state: DrawState, mask: np.ndarray | None) -> Draw | SamplingError:
    scores_W, sampling = scores(logits_W, state, mask), state.sampling
    if scores_W.max() == -np.inf:
        return SamplingError("the grammar leaves no token to draw here; loosen the constraint")
    if sampling.temperature == 0.0:
        return _score(logits_W, int(scores_W.argmax()), sampling.logprobs)
    weights_W = weigh(scores_W, sampling.temperature)
    if _top_k(sampling, len(weights_W)) is None and sampling.top_p == 1.0 and sampling.min_p == 0.0:
        return _score(logits_W, pick(weights_W, state.uniform), sampling.logprobs)
    kept = filtered(weights_W, sampling, candidates(weights_W, sampling))
    return _score(logits_W, int(kept[pick(weights_W[kept], state.uniform)]), sampling.logprobs)


def _score(logits_W: np.ndarray, token_id: int, num_top: int | None) -> Draw:
    if num_top is None:
        return Draw(token_id)
    logits_W = logits_W.astype(np.float64)
    log_total = logits_W.max() + np.log(weigh(logits_W, 1.0).sum())
    num_top = min(num_top, len(logits_W))
    likely = largest(logits_W, num_top) if num_top else np.arange(0)
    top = likely[np.argsort(-logits_W[likely], kind="stable")][:num_top]
    alternatives = tuple((int(other), float(logits_W[other] - log_total)) for other in top)
    return Draw(token_id, float(logits_W[token_id] - log_total), alternatives)


def _top_k(sampling: Sampling, vocab_size: int) -> int | None:
    return sampling.top_k if sampling.top_k is not None and sampling.top_k < vocab_size else None


def _as_array(logits: Tensor) -> np.ndarray:
    array: np.ndarray = logits.detach().float().cpu().numpy()
    return array
