"""The process that compiles a grammar first, so that one that takes too much ends a process and nothing else.

Started by `trial.py` as `python -m small4.grammar.helper`. It reads a line with the limits, a line with the vocabulary,
and then a line per grammar, each of which it answers with one line of JSON. Every grammar is tried in a fork: an alarm
ends that fork, or the system does when it asks for too much memory, and the vocabulary need not be read again.
"""

import json
import os
import random
import resource
import signal
import sys
from pathlib import Path
from typing import Any

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from small4.grammar.vocabulary import Vocabulary, load_tokenizer

NUM_TRIAL_TOKENS = 24  # walked through a grammar at random, since much of the cost only shows when masks are computed


def main() -> None:
    """Answers until the input ends."""
    limits = json.loads(sys.stdin.buffer.readline())
    vocabulary = Vocabulary.from_json(sys.stdin.buffer.readline())
    tokenizer = load_tokenizer(vocabulary)
    _answer({"ready": True})
    for line in sys.stdin.buffer:
        _answer(_in_fork(tokenizer, vocabulary.eos, json.loads(line), limits))


def parser_limits(max_lexer_states: int) -> LLParserLimits:
    """llguidance's own limits: its defaults for one step, and less memory."""
    return LLParserLimits(max_lexer_states=max_lexer_states, verbose_errors=False)


def _in_fork(tokenizer: LLTokenizer, eos: int, grammar: str, limits: dict[str, Any]) -> dict[str, Any]:
    """`{"error": text or null}`, or `{"ended": true}` if the fork did not live to say."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        signal.setitimer(signal.ITIMER_REAL, limits["compile_seconds"])
        _limit_memory(limits["compile_bytes"])
        error = _try_grammar(tokenizer, eos, grammar, limits["max_lexer_states"])
        os.write(writer, json.dumps({"error": error and error[:2000]}).encode())
        os._exit(0)
    os.close(writer)
    with open(reader, encoding="utf-8") as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    return dict(json.loads(text)) if text else {"ended": True}


def _limit_memory(num_bytes: int) -> None:
    """Whatever is taken from now on, beside what is mapped already."""
    mapped = Path("/proc/self/statm")
    if mapped.exists():
        num_bytes += int(mapped.read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (num_bytes, num_bytes))


def _try_grammar(tokenizer: LLTokenizer, eos: int, grammar: str, max_lexer_states: int) -> str | None:
    """What is wrong with the grammar, or with the masks along one random walk; None if nothing."""
    matcher = LLMatcher(tokenizer, grammar, log_level=0, limits=parser_limits(max_lexer_states))
    choose = random.Random(0)
    for _ in range(NUM_TRIAL_TOKENS):
        mask = b"" if matcher.is_error() else matcher.compute_bitmask()
        if matcher.is_error():
            break
        if (token_id := _draw(mask, choose)) == eos:
            break
        matcher.consume_token(token_id)
    return matcher.get_error() or None


def _draw(mask: bytes, choose: random.Random) -> int:
    index = choose.choice([index for index, byte in enumerate(mask) if byte])
    return 8 * index + choose.choice([bit for bit in range(8) if mask[index] >> bit & 1])


def _answer(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
