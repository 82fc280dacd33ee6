"""What a prompt has to keep to, whoever runs it."""

from collections.abc import Sequence

from small4.errors import ContextLengthError, RequestError, SamplingError


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
    wrong = [i for i in token_ids if not (hasattr(i, "__index__") and 0 <= i < vocab_size)]
    if wrong:
        raise RequestError(f"token id {wrong[0]} is not in the vocabulary of {vocab_size}; use this model's tokenizer")
