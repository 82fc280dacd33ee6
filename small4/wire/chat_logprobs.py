"""Log-probabilities as Chat Completions writes them. `token_id` is ours: a token's text alone does not name it."""

from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from small4.chat import ScoredToken, TokenLogprobs

LOWEST = -9999.0  # stands for minus infinity, which JSON has no word for; OpenAI writes the same


class ScoredFields(Struct):
    token: str
    logprob: float
    bytes: list[int] | None = None
    token_id: int | None = None


class TokenFields(ScoredFields):
    top_logprobs: list[ScoredFields] = []


class LogprobsFields(Struct):
    """The entries of a message's content, or the lists of the older text endpoint."""

    content: list[TokenFields] | None = None
    tokens: list[str] = []
    token_logprobs: list[float] = []
    top_logprobs: list[dict[str, float]] | None = None


def format_logprobs(logprobs: Sequence[TokenLogprobs]) -> dict[str, Any]:
    content = [
        _format_scored(entry.token) | {"top_logprobs": [_format_scored(scored) for scored in entry.top]}
        for entry in logprobs
    ]
    return {"content": content, "refusal": None}


def logprobs_of(fields: LogprobsFields | None) -> tuple[TokenLogprobs, ...]:
    if fields is None:
        return ()
    if fields.content is None:
        return _listed(fields)
    return tuple(TokenLogprobs(_scored(entry), tuple(map(_scored, entry.top_logprobs))) for entry in fields.content)


def _listed(fields: LogprobsFields) -> tuple[TokenLogprobs, ...]:
    tops = fields.top_logprobs or [{}] * len(fields.tokens)
    return tuple(
        TokenLogprobs(
            ScoredToken(None, token.encode(), logprob),
            tuple(ScoredToken(None, text.encode(), score) for text, score in top.items()),
        )
        for token, logprob, top in zip(fields.tokens, fields.token_logprobs, tops, strict=False)
    )


def _format_scored(scored: ScoredToken) -> dict[str, Any]:
    fields = {
        "token": scored.data.decode("utf-8", "replace"),
        "logprob": max(scored.logprob, LOWEST),
        "bytes": list(scored.data),
    }
    return fields if scored.token_id is None else fields | {"token_id": scored.token_id}


def _scored(fields: ScoredFields) -> ScoredToken:
    try:
        data = fields.token.encode() if fields.bytes is None else bytes(fields.bytes)
    except ValueError:  # numbers that are no bytes
        data = fields.token.encode()
    return ScoredToken(fields.token_id, data, fields.logprob)
