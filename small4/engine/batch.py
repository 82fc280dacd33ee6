"""A step's plan -> tensors; the only place where lists become tensors.

Tokens of all runs lie packed one after another. Runs that meet many latents with few queries come first, so that each
form of attention has one contiguous part.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from small4.engine.scheduler import Run


@dataclass(frozen=True, slots=True)
class StepBatch:
    """The tensors of one forward pass, and the runs in the order in which their tokens lie."""

    runs: list[Run]
    num_short: int  # runs at the beginning with at most `short_run` tokens
    tokens_T: Tensor
    positions_T: Tensor
    slots_T: Tensor  # cache slot of each token
    starts: list[int]  # place in T of each run's first token, and T
    ends_B: Tensor  # int32: tokens of each run's sequence that its last query sees, drafts included
    tables: Tensor  # int32 [B, blocks of the longest]: cache blocks of each run's sequence
    draw_rows: Tensor  # places in T behind which a token is drawn: a drawing run's last 1 + num_drafts


def build_batch(plan: Sequence[Run], block_size: int, short_run: int) -> StepBatch:
    """Tensors for a plan; `short_run` is the number of tokens up to which a run absorbs."""
    runs = sorted(plan, key=lambda run: len(run.tokens) > short_run)
    starts: list[int] = [0]
    draw_rows: list[int] = []
    for run in runs:
        starts.append(starts[-1] + len(run.tokens))
        if run.draws:
            draw_rows += range(starts[-1] - run.num_drafts - 1, starts[-1])
    # numpy, whose calls on a few numbers take a tenth of torch's time.
    positions_T = np.concatenate([np.arange(run.start, run.end) for run in runs])
    num_blocks = [-(-run.end // block_size) for run in runs]
    tables = np.zeros((len(runs), max(num_blocks)), dtype=np.int32)
    for row, (run, used) in enumerate(zip(runs, num_blocks, strict=True)):
        tables[row, :used] = run.sequence.blocks[:used]
    run_of_T = np.repeat(np.arange(len(runs)), [len(run.tokens) for run in runs])
    slots_T = tables[run_of_T, positions_T // block_size] * np.int64(block_size) + positions_T % block_size
    return StepBatch(
        runs=runs,
        num_short=sum(len(run.tokens) <= short_run for run in runs),
        tokens_T=torch.from_numpy(np.array([token for run in runs for token in run.tokens])),
        positions_T=torch.from_numpy(positions_T),
        slots_T=torch.from_numpy(slots_T),
        starts=starts,
        ends_B=torch.from_numpy(np.array([run.end for run in runs], dtype=np.int32)),
        tables=torch.from_numpy(tables),
        draw_rows=torch.from_numpy(np.array(draw_rows, dtype=np.int64)),
    )
