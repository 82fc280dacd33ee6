"""What the draws of one sequence depend on beside its logits: sampling, seed, place, and the tokens so far.

Randomness is counter-based: output position i of sequence number k of a request is drawn at

    u = blake2b(seed, k, i) as a fraction of 2^53, in [0, 1)

and at nothing else. So the same seed draws the same text in any batch, after a preemption, and under speculation.
"""

import os
import struct
from collections.abc import Callable, Collection, Sequence
from hashlib import blake2b

import numpy as np

from small4.chat import Sampling
from small4.engine.sampling_rules import check_sampling


def uniform(seed: int, index: int, position: int) -> float:
    """A number in [0, 1), the same for the same three."""
    digest = blake2b(struct.pack("<QQQ", seed, index, position), digest_size=8, person=b"small4 draw").digest()
    return (int.from_bytes(digest, "little") >> 11) / 2**53


def fresh_seed() -> int:
    """A seed that nobody can guess."""
    return int.from_bytes(os.urandom(8), "little") >> 1


class DrawState:
    """One sequence as the sampler sees it; `advance` tells it every token that is really emitted.

    `vocab_size` is the width of the logits, `index` the number of the sequence among the n of its request. `seed` is
    the one in use, fresh where the sampling has none. Raises SamplingError for a sampling that cannot be honoured.
    """

    def __init__(
        self,
        sampling: Sampling,
        *,
        vocab_size: int,
        prompt_ids: Sequence[int] = (),
        stop_ids: Collection[int] = (),
        index: int = 0,
        make_seed: Callable[[], int] = fresh_seed,
    ) -> None:
        check_sampling(sampling, vocab_size=vocab_size)
        self.sampling = sampling
        self.seed = make_seed() if sampling.seed is None else sampling.seed
        self.index = index
        self.position = 0  # tokens of output so far
        self.stop_ids = np.array(sorted(i for i in stop_ids if i < vocab_size), dtype=np.int64)
        self.bias_ids = np.array([token_id for token_id, _ in sampling.logit_bias], dtype=np.int64)
        self.biases = np.array([value for _, value in sampling.logit_bias], dtype=np.float64)
        self.counts_W: np.ndarray | None = None  # how often each token is in the output
        self.is_seen_W: np.ndarray | None = None  # which tokens are in prompt or output
        if sampling.presence_penalty or sampling.frequency_penalty:
            self.counts_W = np.zeros(vocab_size, dtype=np.int32)
        if sampling.repetition_penalty != 1.0:
            self.is_seen_W = np.zeros(vocab_size, dtype=np.bool_)
            self.is_seen_W[[i for i in prompt_ids if i < vocab_size]] = True

    @property
    def uniform(self) -> float:
        """Where in the distribution the next token is drawn."""
        return uniform(self.seed, self.index, self.position)

    @property
    def must_go_on(self) -> bool:
        """Whether the next token may not be a stop id."""
        return self.position < self.sampling.min_tokens and len(self.stop_ids) > 0

    @property
    def is_plain_greedy(self) -> bool:
        """Whether the next token is the likeliest one as the model scores it."""
        changed = self.counts_W is not None or self.is_seen_W is not None or len(self.bias_ids) > 0 or self.must_go_on
        return self.sampling.temperature == 0.0 and not changed

    def advance(self, token_id: int) -> None:
        """Take note of the token that was emitted."""
        self.position += 1
        if self.counts_W is not None:
            self.counts_W[token_id] += 1
        if self.is_seen_W is not None:
            self.is_seen_W[token_id] = True
