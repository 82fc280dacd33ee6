"""Tokens that were used, as Chat Completions counts them: the prompt once, the answers together."""

from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from small4.chat import Usage


class PromptDetails(Struct):
    cached_tokens: int | None = None


class CompletionDetails(Struct):
    reasoning_tokens: int | None = None


class UsageFields(Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: PromptDetails | None = None
    completion_tokens_details: CompletionDetails | None = None


def sum_usage(answers: Sequence[Usage]) -> Usage:
    """Of one request with several answers to the same prompt."""
    return Usage(
        prompt_tokens=answers[0].prompt_tokens,
        completion_tokens=sum(usage.completion_tokens for usage in answers),
        reasoning_tokens=sum(usage.reasoning_tokens for usage in answers),
        cached_tokens=answers[0].cached_tokens,
        is_estimated=any(usage.is_estimated for usage in answers),
    )


def format_usage(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def usage_of(fields: UsageFields) -> Usage:
    """What a provider counted; what it does not tell is 0, and the whole then no more than an estimate."""
    prompt, completion = fields.prompt_tokens_details, fields.completion_tokens_details
    return Usage(
        prompt_tokens=fields.prompt_tokens or 0,
        completion_tokens=fields.completion_tokens or 0,
        reasoning_tokens=(completion.reasoning_tokens if completion else None) or 0,
        cached_tokens=(prompt.cached_tokens if prompt else None) or 0,
        is_estimated=fields.prompt_tokens is None or fields.completion_tokens is None,
    )
