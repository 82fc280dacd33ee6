"""What decides the tokens of one sequence, beside the model: sampling, the budget of its thought, a grammar.

A run with d drafts has d + 1 rows of logits. Row 0 gives the token behind the last known one; where it equals the first
draft, row 1 gives the next, and so on: every token is drawn as it would be without drafts.
"""

from collections.abc import Sequence as Items

import torch
from torch import Tensor

from small4.chat import Sampling
from small4.engine.generator import ThoughtLimit
from small4.engine.sampler import Sampler
from small4.engine.scheduler import Run
from small4.errors import NonFiniteLogitsError


class Steering:
    """The rules of sequence number `index` of a request."""

    def __init__(self, index: int = 0, sampling: Sampling | None = None, thought: ThoughtLimit | None = None) -> None:
        self.index = index
        self.sampler = Sampler(sampling or Sampling())
        self.thought = thought

    def next(self, logits_W: Tensor) -> int:
        """The token that is emitted."""
        if not bool(torch.isfinite(logits_W).all()):
            raise NonFiniteLogitsError(
                "the model's scores are not finite: its weights or this input are damaged; see `small4 verify`"
            )
        token = self.sampler(logits_W)
        return token if self.thought is None else self.thought.apply(token)


def draw(drawing: Items[tuple[Run, int]], logits_XW: Tensor) -> dict[int, list[int] | Exception]:
    """New tokens of every drawing run, by sequence id; an exception ends that sequence alone."""
    drawn: dict[int, list[int] | Exception] = {}
    for run, row in drawing:
        drafts = run.tokens[len(run.tokens) - run.num_drafts :]
        new: list[int] = []
        try:
            for place in range(run.num_drafts + 1):
                new.append(run.sequence.steering.next(logits_XW[row + place]))
                if place < len(drafts) and new[-1] != drafts[place]:
                    break
            drawn[run.sequence.id] = new
        except Exception as error:
            drawn[run.sequence.id] = error
    return drawn
