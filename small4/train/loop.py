"""The training loop, in the order it happens: batch, loss, backward, clip, step; save and report now and then."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from small4.model.transformer import Transformer
from small4.tokenizer.tekken import Tokenizer
from small4.train.ahead import FeedAhead
from small4.train.allocator import keep_freed_memory
from small4.train.data import Batch, Feed
from small4.train.loss import Loss, compute_loss
from small4.train.machine import Machine
from small4.train.optim import initialise, make_optimizers, rate_share, set_rate
from small4.train.presets import TrainConfig
from small4.train.state import Progress, load_state, save_state

REPORT_EVERY = 20  # steps
SMOOTHING = 0.95  # of the reported loss


class Batches(Protocol):
    """Where a run's batches come from."""

    def batch(self, step: int) -> Batch: ...


@dataclass(frozen=True, slots=True)
class Report:
    """One line about a running training."""

    step: int
    steps: int
    loss: float  # cross-entropy, smoothed
    tokens_per_second: float
    max_load: float  # busiest expert over the mean
    seconds_left: float


def train(
    config: TrainConfig,
    tokenizer: Tokenizer,
    run: Path,
    *,
    machine: Machine | None = None,
    resume: bool = False,
    stop_at: int | None = None,
    on_report: Callable[[Report], None] = lambda report: None,
) -> tuple[Transformer, Progress]:
    """Train until the last step, until step `stop_at`, or for the machine's leg; states land in `run`.

    Returns the model and its progress, which says how far it came.
    """
    keep_freed_memory()
    machine = machine or Machine()
    machine.check(config.precision)
    model = Transformer(config.model)
    initialise(model, config.model.n_layers, config.seed)
    machine.place(model)
    optimizers = make_optimizers(model, config.optim)
    progress = load_state(run, config, model, optimizers) if resume else Progress()
    began = time.monotonic()
    before, leg_seconds = progress.seconds, 60 * (machine.leg_minutes or float("inf"))
    last = min(config.steps, stop_at or config.steps)
    smoothed: Tensor | None = None
    if progress.loss is not None:
        smoothed = torch.tensor(progress.loss, dtype=torch.float64, device=machine.device)
    with ExitStack() as leaving:
        batches = _open(config, tokenizer, machine, progress.step, leaving)
        for step in range(progress.step, last):
            batch = batches.batch(step)
            loss = learn(config, model, optimizers, batch.to(torch.device(machine.device)), step)
            value = loss.cross_entropy.double()  # stays where it is: to ask for it would make an accelerator wait
            smoothed = value if smoothed is None else SMOOTHING * smoothed + (1 - SMOOTHING) * value
            is_over = step + 1 == last or time.monotonic() - began > leg_seconds
            progress = replace(progress, step=step + 1, tokens=progress.tokens + len(batch.tokens_T))
            if progress.step % REPORT_EVERY == 0 or progress.step % config.save_every == 0 or is_over:
                now = before + time.monotonic() - began
                progress = replace(progress, seconds=now, loss=float(smoothed))
                _report(config, progress, float(loss.max_load), is_over, on_report)
            if progress.step % REPORT_EVERY == 0 and progress.loss is not None:
                progress = replace(progress, losses=(*progress.losses, (progress.step, progress.loss)))
            if progress.step % config.save_every == 0 or is_over:
                save_state(run, config, model, optimizers, progress)
            if is_over:
                break
    return model, progress


def learn(
    config: TrainConfig, model: Transformer, optimizers: list[torch.optim.Optimizer], batch: Batch, step: int
) -> Loss:
    """One step: the weights move, and what it saw comes back."""
    set_rate(optimizers, rate_share(config.optim, step, config.steps))
    with torch.autocast(batch.tokens_T.device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
        loss = compute_loss(model, batch, config.balance_weight, config.z_weight)
    loss.total.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), config.optim.clip_norm)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return loss


def _open(config: TrainConfig, tokenizer: Tokenizer, machine: Machine, first: int, leaving: ExitStack) -> Batches:
    if machine.data_processes == 0:
        return Feed(config, tokenizer)
    return leaving.enter_context(FeedAhead(config, machine.data_processes, first))


def _report(
    config: TrainConfig, progress: Progress, max_load: float, is_over: bool, on_report: Callable[[Report], None]
) -> None:
    if progress.step % REPORT_EVERY and not is_over:
        return
    assert progress.loss is not None, "a step has been taken"
    speed = progress.tokens / progress.seconds
    left = progress.seconds / progress.step * (config.steps - progress.step)
    on_report(Report(progress.step, config.steps, progress.loss, speed, max_load, left))
