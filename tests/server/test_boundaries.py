"""Numeric fields at and beyond their limits, in every dialect that has them: honoured or refused, never our fault."""

import asyncio
import copy
import json
from typing import Any

import pytest

from tests.server.asgi import CHAT, Served

TURN = [{"role": "user", "content": "Hi"}]
GOOGLE: dict[str, Any] = {"contents": [{"role": "user", "parts": [{"text": "Hi"}]}], "generationConfig": {}}
COUNT = 2**31 - 1
SAMPLED = {  # the field: what it may at least and at most be; None: no such end within 64 bits
    "temperature": (0, 5),
    "top_p": (None, 1),
    "frequency_penalty": (-2, 2),
    "presence_penalty": (-2, 2),
}
CHAT_FIELDS = {
    **SAMPLED,
    "n": (1, 8),
    "max_tokens": (1, COUNT),
    "max_completion_tokens": (1, COUNT),
    "top_k": (None, None),
    "min_p": (0, 1),
    "repetition_penalty": (0.1, 10),
    "min_tokens": (0, None),
    "seed": (-(2**63), 2**63 - 1),
    "top_logprobs": (0, 20),
}
DIALECTS: dict[str, tuple[dict[str, Any], dict[str, tuple[float | None, float | None]]]] = {
    "/v1/chat/completions": ({**CHAT, "logprobs": True}, CHAT_FIELDS),
    "/mistral/v1/chat/completions": ({**CHAT, "logprobs": True}, {**CHAT_FIELDS, "random_seed": (-(2**63), 2**63 - 1)}),
    "/v1/completions": ({"model": "scripted", "prompt": "Hi"}, {**SAMPLED, "n": (1, 8), "logprobs": (0, 20)}),
    "/v1/responses": (
        {"model": "scripted", "input": "Hi", "include": ["message.output_text.logprobs"]},
        {**SAMPLED, "max_output_tokens": (1, COUNT), "top_logprobs": (0, 20)},
    ),
    "/v1/messages": (
        {"model": "scripted", "max_tokens": 9, "messages": TURN},
        {"temperature": (0, 5), "top_p": (None, 1), "max_tokens": (1, COUNT)},
    ),
    "/v1beta/models/scripted:generateContent": (
        GOOGLE,
        {
            "temperature": (0, 5),
            "topP": (None, 1),
            "candidateCount": (1, 8),
            "maxOutputTokens": (1, COUNT),
            "presencePenalty": (-2, 2),
            "frequencyPenalty": (-2, 2),
        },
    ),
}
CASES = [(path, field) for path, (_, fields) in DIALECTS.items() for field in fields]


def with_field(path: str, field: str, text: str) -> bytes:
    """The dialect's body with a field spelled as this JSON text, be it JSON or not."""
    body = copy.deepcopy(DIALECTS[path][0])
    target = body.get("generationConfig", body)
    target[field] = "@"
    return json.dumps(body).replace('"@"', text).encode()


def statuses(served: Served, path: str, field: str, texts: list[str]) -> dict[str, int]:
    async def ask() -> dict[str, int]:
        return {text: (await served.client.post(path, with_field(path, field, text))).status for text in texts}

    return asyncio.run(ask())


REFUSED = {400, 422}


@pytest.mark.parametrize(("path", "field"), CASES)
def test_value_just_beyond_its_limit_is_refused_and_the_limit_is_not(tmp_path, path, field):
    least, most = DIALECTS[path][1][field]
    served = Served(tmp_path)
    inside = [json.dumps(end) for end in (least, most) if end is not None]
    outside = [json.dumps(end + step) for end, step in ((least, -1), (most, 1)) if end is not None]
    refused = [text for text, status in statuses(served, path, field, inside).items() if status in REFUSED]
    # Several answers or few tokens may be more than the script has; a status of our own refusal is what counts.
    assert not refused
    assert set(statuses(served, path, field, outside).values()) <= REFUSED


NONSENSE = ["1e308", "-1e308", "1e999", "NaN", "Infinity", "9" * 400, '"1"', '"x"', "[]", "{}", "[1]", '{"a": 1}']


@pytest.mark.parametrize(("path", "field"), CASES)
def test_nonsense_is_refused(tmp_path, path, field):
    found = statuses(Served(tmp_path), path, field, NONSENSE)
    lax = {text for text, status in found.items() if status not in REFUSED}
    # Huge integers and floats are numbers, and where a field has no end they are within its range.
    assert lax <= ({"1e308", "-1e308"} if None in DIALECTS[path][1][field] else set())


@pytest.mark.parametrize(("path", "field"), CASES)
def test_odd_numbers_are_never_our_fault(tmp_path, path, field):
    odd = [
        "-0",
        "-0.0",
        "0",
        "2147483648",
        "9223372036854775807",
        "9223372036854775808",
        "1e-320",
        "true",
        "false",
        "null",
    ]
    assert max(statuses(Served(tmp_path), path, field, odd).values()) in (200, 400, 422, 502)
