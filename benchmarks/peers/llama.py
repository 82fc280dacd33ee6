"""llama.cpp as a contender: a process of its own for every file, asked line by line (llama_worker.py)."""

import json
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.peers.environment import python
from benchmarks.peers.floor import Traffic, gguf_traffic
from benchmarks.peers.rounds import CASES, WARM, Case, measure

WORKER = Path(__file__).with_name("llama_worker.py")


class Worker:
    """One llama.cpp process."""

    def __init__(self) -> None:
        program = [str(python()), str(WORKER)]  # raises where llama.cpp was not built
        self.log = tempfile.NamedTemporaryFile("w+", encoding="utf-8", errors="replace", suffix=".log")  # noqa: SIM115
        self.process = subprocess.Popen(
            program,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
        )

    def ask(self, do: str, **arguments: object) -> Any:
        """One request; RuntimeError with the end of the log where it fails."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps({"do": do, **arguments}), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        answer = json.loads(line) if line else {"error": f"llama.cpp ended with {self.process.wait()}"}
        if "error" in answer:
            end = Path(self.log.name).read_text(encoding="utf-8", errors="replace")[-2000:]
            raise RuntimeError(f"{do}: {answer['error']}\n{end}")
        return answer["result"]

    def logits(self, tokens: Sequence[int], vocab_size: int) -> Tensor:
        """Float32 rows [T, W] behind every token of one sequence."""
        with tempfile.NamedTemporaryFile(suffix=".f32") as file:
            self.ask("logits", tokens=list(tokens), target=file.name)
            return torch.from_numpy(np.fromfile(file.name, np.float32)).view(-1, vocab_size)

    def close(self) -> None:
        """End the process, which ends by itself when nothing more can be asked."""
        self.process.communicate()
        self.log.close()


class LlamaCpp:
    """One file in llama.cpp, with flash attention where `flash` has it; all else as llama-bench sets it."""

    def __init__(self, path: Path, threads: int, flash: dict[Case, bool]) -> None:
        self.path, self.flash = path, flash
        self.worker = Worker()
        self.worker.ask("open", path=str(path), threads=threads)
        self.num_prompts = 0

    def decode(self, num_streams: int, context: int, num_steps: int) -> list[float]:
        form = {"streams": num_streams, "context": context, "flash": self.flash["decode", num_streams, context]}
        seconds: list[float] = self.worker.ask("decode", steps=num_steps, warm=WARM, **form)
        return seconds

    def prompt(self, length: int) -> float:
        self.num_prompts += 1
        flash = self.flash["prompt", 1, length]
        seconds: float = self.worker.ask("prompt", length=length, seed=self.num_prompts, flash=flash)
        return seconds

    def traffic(self) -> Traffic:
        return gguf_traffic(self.path)


Trials = dict[Case, dict[bool, list[float]]]


def try_flash(peer: LlamaCpp, cases: Sequence[Case] = CASES) -> Trials:
    """Seconds of every case without and with flash attention; the peer keeps the faster.

    One file stands for all: what changes is the attention, which no format of the weights touches.
    """
    trials: Trials = {}
    for case in cases:
        kind, streams, length = case
        trials[case] = {}
        for is_flash in (False, True):
            peer.flash[case] = is_flash
            tries = 1 if kind == "decode" else 2
            trials[case][is_flash] = [second for _ in range(tries) for second in measure(peer, case, 6)]
        peer.flash[case] = min(trials[case][True]) < min(trials[case][False])
        if kind == "decode":
            peer.worker.ask("forget", streams=streams, context=length, flash=not peer.flash[case])
    return trials
