"""How a script of cases is run by an SDK's own Python: `python SCRIPT URL KEY` prints a line of JSON for every case.

A case is a function named after a row of the matrix; it says with `assert` and `raises` what has to hold.
"""

import asyncio
import inspect
import json
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

URL, KEY = sys.argv[1:3]

SUM = "17+48"
ANSWER = "65"
CITIES = ["Paris", "Rome"]
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": CITIES}},
    "required": ["city"],
    "additionalProperties": False,
}
# The nano knows no JSON: it fills up all white space that a grammar lets it write, which takes this many tokens.
JSON_TOKENS = 700
# A prompt of some hundred tokens: whole blocks of it are found in the cache when it comes again.
LONG = "+".join(str(number) for number in range(100, 200))
TOO_LONG = LONG * 20
# A red PNG of 3 by 2 pixels.
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAMAAAACCAIAAAASFvFNAAAAEElEQVR4nGP8zwAFTDAGAwATKQED8NgHhAAAAABJRU5ErkJggg=="
IMAGE_SEEN = "PNG 3x2"

Case = Callable[[], object]
_cases: list[Case] = []


def case(function: Case) -> Case:
    """Marks a function as the case of the row that it is named after."""
    _cases.append(function)
    return function


@contextmanager
def raises(kind: type[Exception], *words: str, **attributes: object) -> Iterator[None]:
    """The block ends in this error; its text has the words, and it has these attributes."""
    caught: Exception | None = None
    try:
        yield
    except kind as error:
        caught = error
    assert caught is not None, f"no {kind.__name__} was raised"
    assert [word for word in words if word not in str(caught)] == [], str(caught)
    found = {name: getattr(caught, name) for name in attributes}
    assert found == attributes, f"{found} is not {attributes}"


def run_all() -> None:
    """Run the cases in their order, each whatever became of the others."""
    for function in _cases:
        start, error = time.monotonic(), None
        try:
            result = function()
            if inspect.isawaitable(result):
                asyncio.run(result)
        except Exception:
            error = traceback.format_exc()
        line = {"row": function.__name__, "seconds": round(time.monotonic() - start, 3), "error": error}
        print(json.dumps(line), flush=True)
