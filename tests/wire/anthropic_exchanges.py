"""Golden exchanges of Anthropic's dialect, and short ways to a request of it."""

import json

import pytest

from small4.wire.anthropic import parse_request
from small4.wire.call import Call, Head
from tests.wire.exchanges import SIGNER, load

EXCHANGES = load("anthropic")
each_exchange = pytest.mark.parametrize("exchange", EXCHANGES, ids=lambda exchange: exchange["name"])
PLAIN = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]}
TOOL = {"name": "f", "input_schema": {"type": "object"}}
HEAD = Head("01", 1763600000, "mistral-small-4")


def parse(body) -> Call:
    return parse_request(json.dumps(body).encode(), SIGNER)
