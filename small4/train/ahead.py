"""Batches made ahead by other processes, which an accelerator needs: it learns faster than one process writes.

Batch number `step` depends on config and step alone (`data.Feed`), so process k of n makes those with step % n = k, and
the run reads them in turn: what it learns is the same. A process gets preset, seed and sizes on its command line, and
writes each batch to its standard output as safetensors behind eight bytes of length. Nothing is pickled.
"""

import argparse
import subprocess
import sys
from dataclasses import replace
from queue import Queue
from threading import Thread
from types import TracebackType
from typing import IO

import torch
from safetensors.torch import load, save

from small4.errors import ConfigError, TrainingStateError
from small4.train.data import Batch, Feed, training_tokenizer
from small4.train.presets import TrainConfig, preset

AHEAD = 4  # batches that wait, of each process
_LENGTH_BYTES = 8


class FeedAhead:
    """`Feed` of a preset, from other processes. Read every step from `first` on, in order; close it at the end."""

    def __init__(self, config: TrainConfig, processes: int, first: int) -> None:
        if _of_command(_command(config, processes, first, 0)[3:])[0] != config:
            raise ConfigError(
                f"other processes make data of named presets, and {config.preset!r} was changed in more than seed, "
                "steps and tokens_per_step; train with data_processes=0"
            )
        self._workers = [
            subprocess.Popen(_command(config, processes, first, index), stdout=subprocess.PIPE)
            for index in range(processes)
        ]
        self._queues: list[Queue[Batch | None]] = [Queue(AHEAD) for _ in self._workers]
        self._is_closed = False
        for worker, queue in zip(self._workers, self._queues, strict=True):
            Thread(target=self._read, args=(worker, queue), daemon=True).start()

    def batch(self, step: int) -> Batch:
        """The batch of the next step."""
        batch = self._queues[step % len(self._queues)].get()
        if batch is None:
            raise TrainingStateError(f"the process that makes the data of step {step} ended; go on with --resume")
        return batch

    def close(self) -> None:
        """End the processes."""
        self._is_closed = True
        for worker, queue in zip(self._workers, self._queues, strict=True):
            worker.terminate()
            while not queue.empty():
                queue.get()
        for worker in self._workers:
            worker.wait()

    def __enter__(self) -> "FeedAhead":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _read(self, worker: "subprocess.Popen[bytes]", queue: "Queue[Batch | None]") -> None:
        assert worker.stdout is not None, "it was opened with a pipe"
        try:
            with worker.stdout as stream:
                while not self._is_closed and (batch := read_batch(stream)) is not None:
                    queue.put(batch)
        finally:
            queue.put(None)


def write_batch(batch: Batch, stream: IO[bytes]) -> None:
    """One batch, as `read_batch` reads it."""
    tensors = {f"image{index}": image for index, image in enumerate(batch.images)}
    names = ("tokens_T", "positions_T", "source_M", "target_M")
    data = save(tensors | {name: getattr(batch, name) for name in names} | {"lengths": torch.tensor(batch.lengths)})
    stream.write(len(data).to_bytes(_LENGTH_BYTES, "little") + data)
    stream.flush()


def read_batch(stream: IO[bytes]) -> Batch | None:
    """The next batch, or None where the stream ends."""
    size = int.from_bytes(stream.read(_LENGTH_BYTES), "little")
    data = stream.read(size)
    if size == 0 or len(data) < size:
        return None
    tensors = load(data)
    return Batch(
        tensors["tokens_T"],
        tensors["positions_T"],
        tensors["lengths"].tolist(),
        tensors["source_M"],
        tensors["target_M"],
        tuple(tensors[f"image{index}"] for index in range(len(tensors) - 5)),
    )


def _command(config: TrainConfig, processes: int, first: int, index: int) -> list[str]:
    start = first + (index - first) % processes
    numbers = (config.seed, config.steps, config.tokens_per_step, start, processes)
    return [sys.executable, "-m", "small4.train.ahead", config.preset, *map(str, numbers)]


def _of_command(arguments: list[str]) -> tuple[TrainConfig, int, int]:
    """Config, first step and stride of a process."""
    parser = argparse.ArgumentParser(description="write the batches of a training run to standard output")
    parser.add_argument("preset")
    for name in ("seed", "steps", "tokens_per_step", "start", "stride"):
        parser.add_argument(name, type=int)
    options = parser.parse_args(arguments)
    config = replace(
        preset(options.preset), seed=options.seed, steps=options.steps, tokens_per_step=options.tokens_per_step
    )
    return config, options.start, options.stride


def main() -> None:
    """Write batches until the reader is gone."""
    config, start, stride = _of_command(sys.argv[1:])
    torch.set_num_threads(1)
    feed = Feed(config, training_tokenizer(config))
    try:
        for step in range(start, config.steps, stride):
            write_batch(feed.batch(step), sys.stdout.buffer)
    except (BrokenPipeError, KeyboardInterrupt):
        sys.stderr.close()  # the run has ended; Python would complain that the last bytes found no reader


if __name__ == "__main__":
    main()
