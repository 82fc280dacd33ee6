"""How sure the model was of each token of its answer: as a table to read, and as JSON."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from small4.chat import ScoredToken, TokenLogprobs

WIDTH = 16  # characters of a token that a row shows


def logprob_rows(logprobs: Sequence[TokenLogprobs]) -> Iterator[str]:
    """One line for each token: the token, its probability, and the likeliest ones in its place."""
    yield f"{'token':<{WIDTH}}  {'probability':>11}  likeliest"
    for place in logprobs:
        likeliest = "  ".join(f"{_shown(token)} {_percent(token)}" for token in place.top)
        yield f"{_shown(place.token):<{WIDTH}}  {_percent(place.token):>11}  {likeliest}".rstrip()


def logprobs_json(logprobs: Sequence[TokenLogprobs]) -> list[dict[str, Any]]:
    """The same for programs: natural logarithms, and bytes where a token is no whole text."""
    return [_json(place.token) | {"top": [_json(token) for token in place.top]} for place in logprobs]


def _shown(token: ScoredToken) -> str:
    text = repr(token.data.decode(errors="replace"))
    return text if len(text) <= WIDTH else f"{text[: WIDTH - 3]}..."


def _percent(token: ScoredToken) -> str:
    return f"{100 * math.exp(token.logprob):.2f} %"


def _json(token: ScoredToken) -> dict[str, Any]:
    return {
        "token": token.data.decode(errors="replace"),
        "token_id": token.token_id,
        "bytes": list(token.data),
        "logprob": token.logprob,
    }
