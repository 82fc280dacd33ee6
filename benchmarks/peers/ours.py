"""Our engine as a contender: a whole step is timed, with its schedule, its sampling and its bookkeeping."""

import os

import torch

from benchmarks.peers.rounds import WARM, timed
from small4.engine.config import EngineConfig
from small4.engine.engine import Engine, GenerationRequest
from small4.model.transformer import Transformer

MIN_TOKEN = 20


class Ours:
    """One engine. Contexts stay in its prefix cache between rounds; a timed prompt has a salt of its own."""

    def __init__(self, model: Transformer, *, is_plain: bool = False) -> None:
        config = EngineConfig(max_running=32, max_step_tokens=2048, is_plain=is_plain, cache_bytes=2**29)
        self.model = model
        self.engine = Engine(model, config, context_length=8192)

    def decode(self, num_streams: int, context: int, num_steps: int) -> list[float]:
        sequences = []
        for stream in range(num_streams):
            sequences += self.engine.submit(self._request(context, 1000 + stream, WARM + num_steps + 8, b"kept"))
        while any(sequence.num_output == 0 for sequence in sequences):
            self.engine.step()
        seconds = [timed(self.engine.step) for _ in range(WARM + num_steps)]
        assert all(sequence.num_output >= WARM + num_steps for sequence in sequences), "a step left a stream out"
        for sequence in sequences:
            self.engine.abort(sequence)
        return seconds[WARM:]

    def prompt(self, length: int) -> float:
        (sequence,) = self.engine.submit(self._request(length, length, 2, os.urandom(8)))

        def until_first_token() -> None:
            while sequence.num_output == 0:
                self.engine.step()

        seconds = timed(until_first_token)
        self.engine.abort(sequence)
        return seconds

    def _request(self, length: int, seed: int, max_tokens: int, salt: bytes) -> GenerationRequest:
        generator = torch.Generator().manual_seed(seed)
        prompt = torch.randint(MIN_TOKEN, self.model.config.vocab_size, (length,), generator=generator).tolist()
        return GenerationRequest(prompt=prompt, max_tokens=max_tokens, salt=salt)
