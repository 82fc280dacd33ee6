"""llama.cpp behind lines: one JSON object comes in, one goes out. Runs in the peer's own environment (environment.py).

    {"do": "about"}                                                      versions and what was built in
    {"do": "quantize", "source": path, "target": path, "kind": "Q4_0", "threads": 2}
    {"do": "open", "path": path, "threads": 2}                           the model that all below is about
    {"do": "logits", "tokens": [...], "target": path}                    float32 rows behind every token, to a file
    {"do": "decode", "streams": 8, "context": 128, "steps": 32, "warm": 4, "flash": true}
    {"do": "prompt", "length": 512, "flash": false, "seed": 1}
    {"do": "forget", "streams": 8, "context": 128, "flash": true}        frees a decode's cache

An answer is {"result": ...}, times in seconds by this process's clock, or {"error": text}. Tokens are random, as in
llama.cpp's own benchmarks: a step is llama_decode and the wait for it, and nothing is drawn from the logits.
"""

import ctypes
import json
import os
import random
import sys
import time
from collections.abc import Sequence
from typing import Any

import llama_cpp as lib
import numpy as np

FILE_TYPES = {
    "Q8_0": lib.LLAMA_FTYPE_MOSTLY_Q8_0,
    "Q4_0": lib.LLAMA_FTYPE_MOSTLY_Q4_0,
    "Q4_K_M": lib.LLAMA_FTYPE_MOSTLY_Q4_K_M,
}
BATCH, UBATCH = 2048, 512  # tokens of one call and of one pass, as in llama-bench
ROOM = 64  # tokens that may follow a context
MIN_TOKEN = 20


class Context:
    """One llama.cpp context and a batch to fill."""

    def __init__(self, model: Any, num_threads: int, **settings: int | bool) -> None:
        parameters = lib.llama_context_default_params()
        parameters.n_threads = parameters.n_threads_batch = num_threads
        parameters.n_batch, parameters.n_ubatch = BATCH, UBATCH
        for name, value in settings.items():
            setattr(parameters, name, value)
        self.handle = lib.llama_init_from_model(model, parameters)
        if not self.handle:
            raise RuntimeError(f"no context for {settings}")
        self.memory = lib.llama_get_memory(self.handle)
        self.batch = lib.llama_batch_init(BATCH, 0, 1)

    def decode(self, rows: Sequence[tuple[int, int, int, bool]]) -> float:
        """Seconds for tokens given as (id, position, sequence, whether its logits are wanted)."""
        for place, (token, position, sequence, is_wanted) in enumerate(rows):
            self.batch.token[place], self.batch.pos[place] = token, position
            self.batch.n_seq_id[place], self.batch.seq_id[place][0] = 1, sequence
            self.batch.logits[place] = is_wanted
        self.batch.n_tokens = len(rows)
        begin = time.perf_counter()
        code = lib.llama_decode(self.handle, self.batch)
        lib.llama_synchronize(self.handle)
        seconds = time.perf_counter() - begin
        if code != 0:
            raise RuntimeError(f"llama_decode gave {code} for {len(rows)} tokens")
        return seconds

    def free(self) -> None:
        lib.llama_batch_free(self.batch)
        lib.llama_free(self.handle)


class Model:
    """One file, and its contexts by their settings."""

    def __init__(self, path: str, threads: int) -> None:
        self.handle = lib.llama_model_load_from_file(path.encode(), lib.llama_model_default_params())
        if not self.handle:
            raise RuntimeError(f"llama.cpp does not load {path}")
        self.threads = threads
        self.vocab_size = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(self.handle))
        self.contexts: dict[tuple[object, ...], Context] = {}

    def logits(self, tokens: list[int], target: str) -> int:
        """Write the rows behind every token; returns their number."""
        context = self._context("logits", n_ctx=BATCH, n_outputs_max_per_seq=0)
        lib.llama_memory_clear(context.memory, False)
        context.decode([(token, place, 0, True) for place, token in enumerate(tokens)])
        shape = (len(tokens), self.vocab_size)
        np.ctypeslib.as_array(lib.llama_get_logits(context.handle), shape=shape).tofile(target)
        return len(tokens)

    def prompt(self, length: int, flash: bool, seed: int) -> float:
        """Seconds until the logits behind a prompt."""
        context = self._context("prompt", n_ctx=BATCH, flash_attn_type=int(flash))
        lib.llama_memory_clear(context.memory, False)
        tokens = self._tokens(length, seed)
        return context.decode([(token, place, 0, place == length - 1) for place, token in enumerate(tokens)])

    def decode(self, streams: int, context: int, steps: int, warm: int, flash: bool) -> list[float]:
        """Seconds of each step in which every stream goes on by one token behind `context` tokens."""
        held = self._filled(streams, context, flash)
        for stream in range(streams):
            lib.llama_memory_seq_rm(held.memory, stream, context, -1)
        seconds = []
        for step in range(warm + steps):
            tokens = self._tokens(streams, step)
            seconds.append(held.decode([(token, context + step, stream, True) for stream, token in enumerate(tokens)]))
        return seconds[warm:]

    def _filled(self, streams: int, context: int, flash: bool) -> Context:
        """A context that holds `context` tokens of every stream."""
        key = ("decode", streams, context, flash)
        is_new = key not in self.contexts
        each = -(-(context + ROOM) // 256) * 256
        held = self._context(*key, n_ctx=streams * each, n_seq_max=streams, flash_attn_type=int(flash))
        if is_new:
            for stream in range(streams):
                tokens = self._tokens(context, 1000 + stream)
                for start in range(0, context, BATCH):
                    part = tokens[start : start + BATCH]
                    held.decode([(token, start + place, stream, False) for place, token in enumerate(part)])
        return held

    def forget(self, streams: int, context: int, flash: bool) -> None:
        """Free a context that is not wanted again."""
        self.contexts.pop(("decode", streams, context, flash)).free()

    def _context(self, *key: object, **settings: int | bool) -> Context:
        key = (*key, *settings.items()) if key[0] != "decode" else key
        if key not in self.contexts:
            self.contexts[key] = Context(self.handle, self.threads, **settings)
        return self.contexts[key]

    def _tokens(self, count: int, seed: int) -> list[int]:
        draw = random.Random(seed)
        return [draw.randrange(MIN_TOKEN, self.vocab_size) for _ in range(count)]


def quantize(source: str, target: str, kind: str, threads: int) -> None:
    """llama.cpp's own quantiser, with its own choice of a type for every tensor."""
    parameters = lib.llama_model_quantize_default_params()
    parameters.ftype, parameters.nthread = FILE_TYPES[kind], threads
    if lib.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(parameters)) != 0:
        raise RuntimeError(f"llama.cpp could not make {kind} of {source}")


def about() -> dict[str, str]:
    """What runs here."""
    return {
        "llama_cpp_python": lib.__version__,
        "llama_cpp": lib.llama_version().decode(),
        "system": lib.llama_print_system_info().decode(),
    }


def result_of(models: list[Model], do: str, arguments: dict[str, Any]) -> Any:
    """Carry out one request; `open` puts a model into the list."""
    if do == "about":
        return about()
    if do == "quantize":
        return quantize(**arguments)
    if do == "open":
        models.append(Model(**arguments))
        return None
    (model,) = models
    calls = {"logits": model.logits, "prompt": model.prompt, "decode": model.decode, "forget": model.forget}
    return calls[do](**arguments)


def main() -> None:
    # llama.cpp and what it links write to descriptor 1 now and then; the protocol moves to one of its own.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    lib.llama_backend_init()
    models: list[Model] = []
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"result": result_of(models, request.pop("do"), request)}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
