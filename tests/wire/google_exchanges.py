"""Golden exchanges of Google's dialect, and short ways to a request of it."""

import json

import pytest

from small4.wire import google
from small4.wire.call import Call, Head
from tests.wire.exchanges import load

EXCHANGES = load("google")
each_exchange = pytest.mark.parametrize("exchange", EXCHANGES, ids=lambda exchange: exchange["name"])
PLAIN = {"contents": [{"parts": [{"text": "Hi"}]}]}
HEAD = Head("r1", 1763600000, "mistral-small-4")
DECLARED = [{"functionDeclarations": [{"name": "f"}, {"name": "g"}]}]


def parse(body, path="mistral-small-4:generateContent") -> Call:
    model, _, method = path.partition(":")
    return google.parse_request(json.dumps(body).encode(), model, method == "streamGenerateContent")


def config(**fields):
    return PLAIN | {"generationConfig": fields}


def parts(*parts, role="user"):
    return PLAIN | {"contents": [{"role": role, "parts": list(parts)}]}


def declared(*functions):
    return PLAIN | {"tools": [{"functionDeclarations": list(functions)}]}
