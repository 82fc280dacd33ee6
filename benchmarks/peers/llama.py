"""llama.cpp as a contender: a process of its own for every file, asked line by line (llama_worker.py)."""

import json
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from torch import Tensor

from benchmarks.peers.environment import python
from benchmarks.peers.floor import Traffic, gguf_traffic
from benchmarks.peers.rounds import CONTEXT, DEEP, PROMPTS, STREAMS, WARM

WORKER = Path(__file__).with_name("llama_worker.py")
UBATCHES = {512: (512,), 2048: (512, 2048)}  # llama-bench's default, and the whole prompt


class Worker:
    """One llama.cpp process."""

    def __init__(self) -> None:
        self.log = tempfile.NamedTemporaryFile("w+", encoding="utf-8", errors="replace", suffix=".log")  # noqa: SIM115
        self.process = subprocess.Popen(
            [str(python()), str(WORKER)],
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
    """One file in llama.cpp, under the settings that it was found to run fastest with."""

    def __init__(self, path: Path, threads: int, *, try_again: bool = False) -> None:
        self.path, self.threads = path, threads
        self.worker = Worker()
        self.worker.ask("open", path=str(path), threads=threads)
        self.num_prompts = 0
        found = path.with_suffix(f".{threads}-threads.json")  # of an earlier run on this machine
        if try_again or not found.exists():
            found.write_text(json.dumps(self.trials(), indent=1) + "\n", encoding="utf-8")
        self.tried: dict[str, list[Trial]] = json.loads(found.read_text(encoding="utf-8"))

    def trials(self) -> dict[str, list["Trial"]]:
        """Seconds with flash attention off and on, with both forms of cache for several streams, and by batch size."""
        trials: dict[str, list[Trial]] = {}
        for streams, context in [*((streams, CONTEXT) for streams in STREAMS), (1, DEEP)]:
            forms = [
                {"flash": flash, "unified": unified}
                for flash in (False, True)
                for unified in ((False, True) if streams > 1 else (False,))
            ]
            of_forms = trials[decoding(streams, context)] = []
            for form in forms:
                of_forms.append({"setting": form, "seconds": self._steps(streams, context, 6, form)})
                self.worker.ask("forget", streams=streams, context=context, **form)
        for length in PROMPTS:
            trials[reading(length)] = [
                {"setting": form, "seconds": [self._prompt(length, form) for _ in range(2)]}
                for form in ({"flash": flash, "ubatch": n} for flash in (False, True) for n in UBATCHES[length])
            ]
        return trials

    def chosen(self) -> dict[str, "Setting"]:
        """The setting of the fastest trial, by what was tried."""
        return {
            what: min(trials, key=lambda trial: min(trial["seconds"]))["setting"] for what, trials in self.tried.items()
        }

    def decode(self, num_streams: int, context: int, num_steps: int) -> list[float]:
        return self._steps(num_streams, context, num_steps, self.chosen()[decoding(num_streams, context)])

    def prompt(self, length: int) -> float:
        return self._prompt(length, self.chosen()[reading(length)])

    def traffic(self) -> Traffic:
        return gguf_traffic(self.path)

    def _steps(self, streams: int, context: int, steps: int, setting: "Setting") -> list[float]:
        seconds: list[float] = self.worker.ask(
            "decode", streams=streams, context=context, steps=steps, warm=WARM, **setting
        )
        return seconds

    def _prompt(self, length: int, setting: "Setting") -> float:
        self.num_prompts += 1
        seconds: float = self.worker.ask("prompt", length=length, seed=self.num_prompts, **setting)
        return seconds


Setting = dict[str, int | bool]


class Trial(TypedDict):
    """One setting and what it took."""

    setting: Setting
    seconds: list[float]


def decoding(streams: int, context: int) -> str:
    return f"{streams} streams at {context}"


def reading(length: int) -> str:
    return f"prompt of {length}"
