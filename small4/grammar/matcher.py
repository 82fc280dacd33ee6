"""A compiled constraint and its use: which tokens may come next, beside the tokens that came so far."""

import numpy as np
import numpy.typing as npt
from llguidance import LLMatcher

from small4.errors import GrammarError
from small4.grammar.vocabulary import Vocabulary

Mask = npt.NDArray[np.int32]


class Grammar:
    """A compiled constraint; every answer takes a matcher of its own."""

    def __init__(self, start: LLMatcher, vocabulary: Vocabulary) -> None:
        self._start = start
        self._vocabulary = vocabulary

    def matcher(self) -> "Matcher":
        """A matcher at the start of an answer."""
        return Matcher(self._start.deep_copy(), self._vocabulary)


class Matcher:
    """Where one answer stands in its grammar. For one thread at a time; `fill_mask` lets other threads run."""

    def __init__(self, inner: LLMatcher, vocabulary: Vocabulary) -> None:
        self.num_words = vocabulary.num_words  # 32-bit words in a mask row
        self.num_accepted = 0  # tokens, </s> included
        self._inner = inner
        self._eos = vocabulary.eos
        self._num_eos = 0  # at the end of what was accepted; llguidance does not see them

    def fill_mask(self, masks: Mask, row: int) -> None:
        """Writes into `masks[row]` one bit per token id, lowest first in each word: 1 where the token may come next.

        </s> may come where the answer is complete, and after it only </s>. Raises a `GrammarError` if the constraint
        has grown too complex for this answer, which then cannot go on.
        """
        words = masks[row]
        if words.dtype != np.int32 or words.shape != (self.num_words,) or not words.flags.c_contiguous:
            raise ValueError(
                f"a mask row is {self.num_words} contiguous int32, this one is {words.shape} {words.dtype}"
            )
        if self._num_eos:
            words[:] = 0
            words.view(np.uint32)[self._eos // 32] = 1 << self._eos % 32
            return
        self._inner.unsafe_compute_mask_ptr(words.ctypes.data, words.nbytes)
        self._check()

    def allows(self, token_id: int) -> bool:
        """Whether this token may come next."""
        if token_id == self._eos:
            return self.is_complete
        return not self._num_eos and self._inner.validate_tokens([token_id]) == 1

    def accept(self, token_id: int) -> None:
        """Takes one token; one that may not come next raises a `GrammarError` and changes nothing."""
        if token_id == self._eos and self.is_complete:
            self._num_eos += 1
        elif token_id == self._eos or self._num_eos or self._inner.try_consume_tokens([token_id]) != 1:
            self._check()
            raise GrammarError(
                f"token {token_id} after {self.num_accepted} others breaks the constraint; take one of fill_mask"
            )
        self.num_accepted += 1

    def rollback(self, num_tokens: int) -> None:
        """Takes back the last so many tokens."""
        if not 0 <= num_tokens <= self.num_accepted:
            raise ValueError(f"cannot take back {num_tokens} tokens of {self.num_accepted}")
        num_eos = min(num_tokens, self._num_eos)
        if num_tokens > num_eos and not self._inner.rollback(num_tokens - num_eos):
            self._check()
        self._num_eos -= num_eos
        self.num_accepted -= num_tokens

    @property
    def is_complete(self) -> bool:
        """Whether the tokens so far satisfy the constraint, so that </s> may come or has come."""
        return self._num_eos > 0 or self._inner.is_accepting()

    def _check(self) -> None:
        if self._inner.is_error():
            reason = self._inner.get_error().splitlines()[0][:200]
            raise GrammarError(f"the constraint stopped after {self.num_accepted} tokens ({reason}); simplify it")
