"""The process that compiles a grammar first, so that one that takes too much ends a process and nothing else.

Started by `trial.py` as a `Child` of `isolation.py`. It reads a line with the limits, one with the vocabulary, and then
a line per grammar, each of which is tried in a fork, so that the vocabulary need not be read again.
"""

import json
import random
import sys
from functools import partial
from typing import Any

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from small4.grammar.vocabulary import Vocabulary, load_tokenizer
from small4.isolation import be_ready, say_from_fork

NUM_TRIAL_TOKENS = 24  # walked through a grammar at random, since much of the cost only shows when masks are computed


def main() -> None:
    """Answers until the input ends."""
    limits = json.loads(sys.stdin.buffer.readline())
    vocabulary = Vocabulary.from_json(sys.stdin.buffer.readline())
    tokenizer = load_tokenizer(vocabulary)
    be_ready()
    for line in sys.stdin.buffer:
        verdict = partial(_verdict, tokenizer, vocabulary.eos, json.loads(line), limits["max_lexer_states"])
        say_from_fork(verdict, limits["compile_seconds"], limits["compile_bytes"])


def parser_limits(max_lexer_states: int) -> LLParserLimits:
    """llguidance's own limits: its defaults for one step, and less memory."""
    return LLParserLimits(max_lexer_states=max_lexer_states, verbose_errors=False)


def _verdict(tokenizer: LLTokenizer, eos: int, grammar: str, max_lexer_states: int) -> tuple[dict[str, Any], bytes]:
    """`{"error": text or null}`."""
    error = _try_grammar(tokenizer, eos, grammar, max_lexer_states)
    return {"error": error and error[:2000]}, b""


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


if __name__ == "__main__":
    main()
