"""A step's plan -> tensors; the only place where lists become tensors.

Tokens of all runs lie packed one after another. Runs that meet many latents with few queries come first, so that each
form of attention has one contiguous part.
"""

from collections.abc import Sequence
from dataclasses import dataclass

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
    positions_T = torch.cat([torch.arange(run.start, run.end) for run in runs])
    num_blocks = [-(-run.end // block_size) for run in runs]
    longest = max(num_blocks)
    rows = [run.sequence.blocks[:used] + [0] * (longest - used) for run, used in zip(runs, num_blocks, strict=True)]
    tables = torch.tensor(rows, dtype=torch.int32)
    run_of_T = torch.repeat_interleave(torch.tensor([len(run.tokens) for run in runs]))
    slots_T = tables[run_of_T, positions_T // block_size].long() * block_size + positions_T % block_size
    return StepBatch(
        runs=runs,
        num_short=sum(len(run.tokens) <= short_run for run in runs),
        tokens_T=torch.tensor([token for run in runs for token in run.tokens]),
        positions_T=positions_T,
        slots_T=slots_T,
        starts=starts,
        ends_B=torch.tensor([run.end for run in runs], dtype=torch.int32),
        tables=tables,
        draw_rows=torch.tensor(draw_rows, dtype=torch.long),
    )
