"""Numeric fields at and beyond their limits, in every dialect that has them: honoured or refused, never our fault."""

import asyncio
import copy
import json
from collections.abc import Callable
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
NONSENSE = ["1e308", "-1e308", "1e999", "NaN", "Infinity", "9" * 400, '"1"', '"x"', "[]", "{}", "[1]", '{"a": 1}']
ODD = ["-0", "-0.0", "0", "2147483648", "9223372036854775807", "9223372036854775808", "1e-320", "true", "false", "null"]
REFUSED = {400, 422}


def with_field(path: str, field: str, text: str) -> bytes:
    """The dialect's body with a field spelled as this JSON text, be it JSON or not."""
    body = copy.deepcopy(DIALECTS[path][0])
    body.get("generationConfig", body)[field] = "@"
    return json.dumps(body).replace('"@"', text).encode()


def statuses(directory, path: str, texts_of: Callable[[str], list[str]]) -> dict[tuple[str, str], int]:
    """The status of every field of the dialect with each of these texts for its value."""
    served = Served(directory)

    async def ask() -> dict[tuple[str, str], int]:
        return {
            (field, text): (await served.client.post(path, with_field(path, field, text))).status
            for field in DIALECTS[path][1]
            for text in texts_of(field)
        }

    return asyncio.run(ask())


@pytest.mark.parametrize("path", DIALECTS)
def test_limit_is_honoured_and_what_lies_just_beyond_is_refused(tmp_path, path):
    ends = DIALECTS[path][1]
    inside = statuses(tmp_path, path, lambda field: [json.dumps(end) for end in ends[field] if end is not None])
    # Several answers are more than the script has; what counts is that nothing here is refused.
    assert not {case for case, status in inside.items() if status in REFUSED}
    steps = (-1, 1)
    outside = statuses(
        tmp_path,
        path,
        lambda field: [json.dumps(end + step) for end, step in zip(ends[field], steps, strict=True) if end is not None],
    )
    assert set(outside.values()) <= REFUSED


@pytest.mark.parametrize("path", DIALECTS)
def test_nonsense_is_refused(tmp_path, path):
    found = statuses(tmp_path, path, lambda field: NONSENSE)
    lax = {case for case, status in found.items() if status not in REFUSED}
    # Huge numbers are numbers, and where a field has no end they are within its range.
    endless = {field for field, ends in DIALECTS[path][1].items() if None in ends}
    assert lax <= {(field, text) for field in endless for text in ("1e308", "-1e308")}


@pytest.mark.parametrize("path", DIALECTS)
def test_odd_numbers_are_never_our_fault(tmp_path, path):
    found = statuses(tmp_path, path, lambda field: ODD)
    several = {case: status for case, status in found.items() if status == 502}
    assert {field for field, _ in several} <= {"n", "candidateCount"}
    assert set(found.values()) - {502} <= {200, *REFUSED}
