"""The training loop, in the order it happens: batch, loss, backward, clip, step; save and report now and then."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from small4.model.transformer import Transformer
from small4.tokenizer.tekken import Tokenizer
from small4.train.allocator import keep_freed_memory
from small4.train.data import Feed
from small4.train.loss import compute_loss
from small4.train.optim import initialise, make_optimizers, rate_share, set_rate
from small4.train.presets import TrainConfig
from small4.train.state import Progress, load_state, save_state

REPORT_EVERY = 20  # steps
SMOOTHING = 0.95  # of the reported loss


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
    resume: bool = False,
    stop_at: int | None = None,
    on_report: Callable[[Report], None] = lambda report: None,
) -> tuple[Transformer, Progress]:
    """Train until the last step, or until step `stop_at`; states land in `run`. Returns the model and its progress."""
    keep_freed_memory()
    model = Transformer(config.model)
    initialise(model, config.model.n_layers, config.seed)
    optimizers = make_optimizers(model, config.optim)
    feed = Feed(config, tokenizer)
    progress = load_state(run, config, model, optimizers) if resume else Progress()
    started = time.monotonic() - progress.seconds
    last = min(config.steps, stop_at or config.steps)
    for step in range(progress.step, last):
        set_rate(optimizers, rate_share(config.optim, step, config.steps))
        batch = feed.batch(step)
        loss = compute_loss(model, batch, config.balance_weight, config.z_weight)
        loss.total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.optim.clip_norm)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        now, value = time.monotonic() - started, float(loss.cross_entropy)
        smoothed = value if progress.loss is None else SMOOTHING * progress.loss + (1 - SMOOTHING) * value
        tokens = progress.tokens + len(batch.tokens_T)
        progress = replace(progress, step=step + 1, tokens=tokens, seconds=now, loss=smoothed)
        if progress.step % REPORT_EVERY == 0:
            progress = replace(progress, losses=(*progress.losses, (progress.step, smoothed)))
        if progress.step % REPORT_EVERY == 0 or progress.step == last:
            left = now / progress.step * (config.steps - progress.step)
            on_report(Report(progress.step, config.steps, smoothed, tokens / now, loss.max_load, left))
        if progress.step % config.save_every == 0 or progress.step == last:
            save_state(run, config, model, optimizers, progress)
    return model, progress
