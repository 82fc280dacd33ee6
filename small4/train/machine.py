"""Where and how fast a run computes. None of it changes what is learned, but for rounding."""

import os
from dataclasses import dataclass

import torch
from torch import nn

from small4.errors import ConfigError
from small4.model.transformer import Transformer
from small4.train.presets import Precision

MAX_VARIANTS = 64  # of one compiled function: every layer is one, and each is compiled for its own number


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """One processor or accelerator, and the processes that make its data."""

    device: str = "cpu"
    compiles: bool = False  # blocks by torch.compile: a minute first, then faster on an accelerator
    data_processes: int = 0  # that make batches ahead; 0: batches are made between the steps
    leg_minutes: float | None = None  # after which the run saves its state and stops; None: it runs to its end

    def __post_init__(self) -> None:
        if self.data_processes < 0:
            raise ConfigError(f"data_processes is {self.data_processes}; it must be 0 or more")
        if self.leg_minutes is not None and self.leg_minutes <= 0:
            raise ConfigError(f"leg_minutes is {self.leg_minutes}; it must be above 0, or left out for no limit")
        if torch.device(self.device).type == "cuda" and not torch.cuda.is_available():
            raise ConfigError("this machine or this torch has no CUDA device; train on cpu")

    def check(self, precision: Precision) -> None:
        """Refuse what torch cannot compile: its grouped product is traced in bfloat16 alone."""
        if self.compiles and precision != "bfloat16":
            raise ConfigError(f"blocks are compiled in bfloat16 only, the preset's precision is {precision}")

    def place(self, model: Transformer) -> Transformer:
        """The model on the device, in float32, compiled where that is asked for."""
        model.to(self.device)
        model.frequencies_R = model.frequencies_R.to(self.device)
        if self.compiles:
            torch._dynamo.config.recompile_limit = MAX_VARIANTS
            for block in model.layers:
                assert isinstance(block, nn.Module)
                block.compile()
        return model


def machine_of(device: str | None, *, compiles: bool, data_processes: int | None, leg_minutes: float | None) -> Machine:
    """What a command line asks for; what it leaves open suits the machine it runs on."""
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if data_processes is None:
        data_processes = max(1, (os.cpu_count() or 1) - 2) if device != "cpu" else 0
    return Machine(device=device, compiles=compiles, data_processes=data_processes, leg_minutes=leg_minutes)
