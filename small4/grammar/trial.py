"""Asks the helper process whether a grammar compiles within the limits."""

import json
from collections.abc import Iterable
from dataclasses import asdict

from small4.errors import GrammarError
from small4.grammar.limits import GrammarLimits
from small4.grammar.vocabulary import Vocabulary
from small4.isolation import Child


class Trial:
    """One helper, started when first asked and again after it had to be ended. Safe to call from several threads."""

    def __init__(self, vocabulary: Vocabulary, limits: GrammarLimits) -> None:
        def opening() -> Iterable[bytes]:
            yield json.dumps(asdict(limits)).encode() + b"\n"
            yield vocabulary.to_json().encode() + b"\n"

        self._limits = limits
        self._child = Child("small4.grammar.helper", opening, limits.start_seconds)

    def start(self) -> None:
        """Starts the helper if it does not run, which takes seconds with a large vocabulary."""
        self._child.start()

    def check(self, grammar: str) -> str | None:
        """What llguidance finds wrong with a grammar; raises a `GrammarError` if it takes too much time or memory."""
        answer = self._child.ask([json.dumps(grammar).encode() + b"\n"], self._limits.compile_seconds)
        if answer is None:
            raise GrammarError(
                f"the constraint takes more than {self._limits.compile_seconds:g} s or "
                f"{self._limits.compile_bytes // 2**20} MiB to compile; simplify it"
            )
        error = answer.line["error"]
        return None if error is None else str(error)

    def close(self) -> None:
        """Ends the helper; the next check starts another."""
        self._child.close()

    @property
    def process_id(self) -> int | None:
        """Of the helper that runs now."""
        return self._child.process_id
