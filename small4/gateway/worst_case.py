"""What a request can cost at most on a route: what is held against budgets before it begins.

Tokenizers of text make no more tokens than there are bytes, so bytes bound a prompt; the answer is bounded by the
request's limit, else by the context. That is far above what most requests come to, and held only while they run.
"""

from decimal import Decimal

from small4.catalog.price import Prices, cost_of
from small4.chat import ChatRequest, ImageLink, ImagePart, Usage
from small4.providers.estimate import prompt_bytes

MARK_TOKENS = 16  # around a message or a tool, at most
IMAGE_TOKENS = 4096  # of one image, at most


def most_cost(
    request: ChatRequest, context_tokens: int, prices: Prices, max_output_tokens: int | None = None
) -> Decimal | None:
    """Dollars; None where a price that it needs is unknown."""
    prompt, answer = most_tokens(request, context_tokens, max_output_tokens)
    usages = [Usage(prompt, answer, reasoning_tokens=reasoning) for reasoning in (0, answer)]
    bounds = [cost_of(usage, prices, num_images=num_images(request)).at_most_usd for usage in usages]
    known = [bound for bound in bounds if bound is not None]
    return max(known) if len(known) == len(bounds) else None


def most_tokens(request: ChatRequest, context_tokens: int, max_output_tokens: int | None = None) -> tuple[int, int]:
    """Tokens of the prompt and of all answers together, at most."""
    prompt = prompt_bytes(request) + MARK_TOKENS * (len(request.messages) + len(request.tools) + 1)
    prompt += IMAGE_TOKENS * num_images(request)
    limits = (request.max_tokens, max_output_tokens, context_tokens)
    answer = min(limit for limit in limits if limit is not None)
    return min(prompt, context_tokens), answer * request.num_answers


def num_images(request: ChatRequest) -> int:
    """Images in the conversation."""
    contents = [message.content for message in request.messages if not isinstance(message.content, str)]
    return sum(isinstance(part, ImagePart | ImageLink) for content in contents for part in content)
