"""What a request can cost at most on a route: what is held against budgets before it begins.

Tokenizers of text make no more tokens than there are bytes, so bytes bound a prompt; the answer is bounded by the
request's limit, else by the context. That is far above what most requests come to, and held only while they run.
"""

from decimal import Decimal

from small4.catalog.price import Prices, cost_of
from small4.chat import ChatRequest, Usage
from small4.providers.estimate import MAX_TOKENS_PER_IMAGE, num_images, prompt_bytes

MARK_TOKENS = 16  # around a message or a call, at most
TOOL_TOKENS = 64  # around a tool, or the answer's form: '{"type": "function", "function": ...'


def most_cost(
    request: ChatRequest, context_tokens: int, prices: Prices, max_output_tokens: int | None = None
) -> Decimal | None:
    """Dollars; None where a price that it needs is unknown."""
    prompt, answer = most_tokens(request, context_tokens, max_output_tokens)
    return _cost(request, prompt, answer, prices)


def most_cost_of(request: ChatRequest, context_tokens: int, prices: Prices, answer_bytes: int) -> Decimal | None:
    """Dollars, of an answer of which so many bytes were seen."""
    prompt, _ = most_tokens(request, context_tokens)
    return _cost(request, prompt, answer_bytes, prices)


def most_tokens(request: ChatRequest, context_tokens: int, max_output_tokens: int | None = None) -> tuple[int, int]:
    """Tokens of the prompt and of all answers together, at most."""
    num_calls = sum(len(message.tool_calls) for message in request.messages)
    prompt = prompt_bytes(request) + MARK_TOKENS * (len(request.messages) + num_calls + 1)
    prompt += TOOL_TOKENS * (len(request.tools) + (request.response_format is not None))
    prompt += MAX_TOKENS_PER_IMAGE * num_images(request)
    limits = (request.max_tokens, max_output_tokens, context_tokens)
    answer = min(limit for limit in limits if limit is not None)
    return min(prompt, context_tokens), answer * request.num_answers


def _cost(request: ChatRequest, prompt: int, answer: int, prices: Prices) -> Decimal | None:
    """The dearer of an answer without a thought and one that is all thought."""
    usages = [Usage(prompt, answer, reasoning_tokens=reasoning) for reasoning in (0, answer)]
    bounds = [cost_of(usage, prices, num_images=num_images(request)).at_most_usd for usage in usages]
    known = [bound for bound in bounds if bound is not None]
    return max(known) if len(known) == len(bounds) else None
