"""One sequence, one token at a time, over its latent cache: plain generation until many share the engine.

prefill in chunks -> last logits -> sample -> feed the token back -> ... until a stop id or the limit
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from small4.chat import Sampling
from small4.engine.kv_cache import CachedAttention, LatentCache
from small4.engine.sampler import Sampler
from small4.errors import ContextLengthError, RequestError, SamplingError, VerificationError
from small4.model.transformer import Transformer

PREFILL_CHUNK = 1024  # tokens per pass: bounds the memory of a long prompt


class ThoughtLimit:
    """Closes the thought once it has had `budget` tokens, by forcing the closing token in place of the next draw."""

    def __init__(self, budget: int, open_id: int, close_id: int, *, is_open: bool = False) -> None:
        if budget < 0:
            raise SamplingError(f"thinking budget is {budget}; it must be 0 or more tokens")
        self.budget, self.open_id, self.close_id = budget, open_id, close_id
        self.is_open, self.used = is_open, 0

    def apply(self, token_id: int) -> int:
        """The token that is really emitted where `token_id` was drawn."""
        if self.is_open and token_id != self.close_id and self.used >= self.budget:
            token_id = self.close_id
        if token_id in (self.open_id, self.close_id):
            self.is_open = token_id == self.open_id
        elif self.is_open:
            self.used += 1
        return token_id


def generate(
    model: Transformer,
    token_ids: Sequence[int],
    *,
    max_tokens: int,
    context_length: int,
    sampling: Sampling,
    images: Sequence[Tensor] = (),
    stop_ids: Sequence[int] = (2,),
    thought_limit: ThoughtLimit | None = None,
    num_ids: int | None = None,
) -> Iterator[int]:
    """New token ids one by one, the stop id included; ends at a stop id or after `max_tokens`.

    Raises at once, before any work: ContextLengthError where prompt and `max_tokens` exceed `context_length`,
    RequestError and SamplingError for what cannot run. `num_ids` keeps to that many first ids, for a tokenizer that has
    fewer than the model has rows.
    """
    check_lengths(len(token_ids), max_tokens, context_length)
    check_ids(token_ids, model.config.vocab_size)
    sampler = Sampler(sampling)
    cache = LatentCache(model.config, len(token_ids) + max_tokens, model.tok_embeddings.weight.dtype)

    @torch.inference_mode()
    def tokens() -> Iterator[int]:
        logits_W = prefill(model, cache, torch.tensor(token_ids), images)[:num_ids]
        check_finite(logits_W)
        for count in range(1, max_tokens + 1):
            token_id = sampler(logits_W)
            if thought_limit is not None:
                token_id = thought_limit.apply(token_id)
            yield token_id
            if token_id in stop_ids or count == max_tokens:
                return
            logits_W = step(model, cache, torch.tensor([token_id]))[:num_ids]

    return tokens()


def check_lengths(num_prompt: int, max_tokens: int, context_length: int) -> None:
    """Refuse what cannot fit, with both numbers."""
    if num_prompt == 0:
        raise RequestError("the prompt is empty; send at least one token")
    if max_tokens < 1:
        raise SamplingError(f"max_tokens is {max_tokens}; it must be at least 1")
    if num_prompt + max_tokens > context_length:
        raise ContextLengthError(
            f"the prompt has {num_prompt} tokens and max_tokens asks for {max_tokens} more, the limit is "
            f"{context_length} together; shorten the prompt or lower max_tokens"
        )


def check_ids(token_ids: Sequence[int], vocab_size: int) -> None:
    """Refuse ids that the embedding does not have."""
    wrong = next((i for i in token_ids if not 0 <= i < vocab_size), None)
    if wrong is not None:
        raise RequestError(f"token id {wrong} is not in the vocabulary of {vocab_size}; use this model's tokenizer")


def check_finite(logits_W: Tensor) -> None:
    """Refuse to answer from weights that give no numbers."""
    if not bool(torch.isfinite(logits_W).all()):
        raise VerificationError(
            "the model's scores are not finite, so its weights are damaged; `small4 verify` says where"
        )


def prefill(model: Transformer, cache: LatentCache, tokens_T: Tensor, images: Sequence[Tensor]) -> Tensor:
    """Run the prompt chunk by chunk and return the logits [W] behind its last token."""
    if images:  # their rows are placed over one pass
        return step(model, cache, tokens_T, images)
    for start in range(0, len(tokens_T) - 1, PREFILL_CHUNK):
        _run(model, cache, tokens_T[start : min(start + PREFILL_CHUNK, len(tokens_T) - 1)], ())
    return step(model, cache, tokens_T[-1:])


def step(model: Transformer, cache: LatentCache, tokens_T: Tensor, images: Sequence[Tensor] = ()) -> Tensor:
    """Feed tokens and return the logits [W] behind the last one."""
    return model.logits(_run(model, cache, tokens_T, images)[-1:])[0]


def _run(model: Transformer, cache: LatentCache, tokens_T: Tensor, images: Sequence[Tensor]) -> Tensor:
    positions_T = torch.arange(cache.length, cache.length + len(tokens_T))
    hidden_TD = model.hidden(tokens_T, positions_T, CachedAttention(cache), images)
    cache.advance(len(tokens_T))
    return hidden_TD
