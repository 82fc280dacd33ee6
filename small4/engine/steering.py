"""What decides the tokens of one sequence, beside the model: sampling, the budget of its thought, a grammar.

A run with d drafts has d + 1 rows of logits. Row 0 gives the token behind the last known one; where it equals the first
draft, row 1 gives the next, and so on: every token is drawn as it would be without drafts. Row by row all sequences go
side by side, and an error ends the one that it belongs to.
"""

from collections.abc import Sequence as Items
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor

from small4.engine.draw_state import DrawState
from small4.engine.sampler import Draw, sample, score
from small4.engine.scheduler import Run
from small4.engine.thought import ThoughtLimit


class Matcher(Protocol):
    """Where one sequence stands in its grammar."""

    num_words: int  # of a mask: bit i % 32 of int32 word i // 32 allows token i

    def fill_mask(self, masks: np.ndarray, row: int) -> None:
        """Write what may come next into a row of masks."""
        ...

    def accept(self, token_id: int) -> None:
        """Go on behind a token; raises where it may not come."""
        ...


class Grammar(Protocol):
    """What an output must look like."""

    def matcher(self) -> Matcher:
        """A matcher at the beginning of an output."""
        ...


Mask = np.ndarray | Exception | None


@dataclass(slots=True)
class Steering:
    """The rules of one sequence, moved on with every token that is emitted."""

    state: DrawState
    thought: ThoughtLimit | None = None
    matcher: Matcher | None = None

    def mask(self) -> np.ndarray | None:
        """The tokens that may come next, as bits of int32 words; None: all."""
        if self.matcher is None:
            return None
        masks = np.empty((1, self.matcher.num_words), dtype=np.int32)
        self.matcher.fill_mask(masks, 0)
        mask: np.ndarray = masks[0]
        return mask

    def emit(self, draw: Draw, logits_W: Tensor) -> Draw:
        """The token that is really emitted where another may have been drawn."""
        token_id = draw.token_id if self.thought is None else self.thought.apply(draw.token_id)
        if token_id != draw.token_id:
            draw = score(logits_W, token_id, self.state.sampling.logprobs)
        self.state.advance(token_id)
        if self.matcher is not None:
            self.matcher.accept(token_id)
        return draw


@dataclass(slots=True)
class _Drawing:
    """One run on its way through its rows."""

    run: Run
    first_row: int
    draws: list[Draw]
    error: Exception | None = None

    @property
    def steering(self) -> Steering:
        return self.run.sequence.steering

    @property
    def is_open(self) -> bool:
        """Whether the next row counts: the drafts up to it were all drawn."""
        run, count = self.run, len(self.draws)
        if self.error is not None or count > run.num_drafts:
            return False
        if count == 0:
            return True
        last = self.draws[-1].token_id
        # What would come behind the end is nobody's, and a grammar may have no answer to it.
        return last not in run.sequence.stop_ids and last == run.tokens[len(run.tokens) - run.num_drafts + count - 1]


def masks_of(runs: Items[Run]) -> dict[int, Mask]:
    """The first masks of all runs that draw under a grammar, by sequence id; computed while the model runs."""
    sequences = [run.sequence for run in runs if run.draws and run.sequence.steering.matcher is not None]
    return {sequence.id: _mask(sequence.steering) for sequence in sequences}


def draw(
    drawing: Items[tuple[Run, int]], logits_XW: Tensor, first_masks: dict[int, Mask]
) -> dict[int, list[Draw] | Exception]:
    """New tokens of every drawing run by sequence id, or the error that ends it; rows of a run begin where it says."""
    everyone = [_Drawing(run, row, []) for run, row in drawing]
    while going := [one for one in everyone if one.is_open]:
        masks = [_mask(one.steering) if one.draws else first_masks.get(one.run.sequence.id) for one in going]
        _draw_row(going, masks, logits_XW)
    return {one.run.sequence.id: one.draws if one.error is None else one.error for one in everyone}


def _mask(steering: Steering) -> Mask:
    try:
        return steering.mask()
    except Exception as error:
        return error


def _draw_row(going: list[_Drawing], found: list[Mask], logits_XW: Tensor) -> None:
    """The next token of each."""
    masks: list[np.ndarray | None] = []
    for one, mask in zip(going, found, strict=True):
        if isinstance(mask, Exception):
            one.error, mask = mask, None
        masks.append(mask)
    rows = [one.first_row + len(one.draws) for one in going]
    logits_BW = logits_XW if len(rows) == len(logits_XW) else logits_XW[rows]
    drawn = _sample(logits_BW, [one.steering.state for one in going], masks)
    for one, row, result in zip(going, rows, drawn, strict=True):
        if isinstance(result, Exception):
            one.error = one.error or result
        elif one.error is None:
            try:
                one.draws.append(one.steering.emit(result, logits_XW[row]))
            except Exception as error:
                one.error = error


def _sample(logits_BW: Tensor, states: Items[DrawState], masks: Items[np.ndarray | None]) -> Items[Draw | Exception]:
    """As `sample`, but where it fails, each row is drawn alone: only those that fail again end."""
    try:
        return sample(logits_BW, states, masks)
    except Exception as error:
        if len(states) == 1:
            return [error]
    rows = (slice(row, row + 1) for row in range(len(states)))
    return [drawn for row in rows for drawn in _sample(logits_BW[row], states[row], masks[row])]
