"""The draft head at work: its cache rows beside the target's, in the same blocks, and the tokens that it guesses.

The head's row p is made of the target's hidden state of token p and the embedding of token p + 1. So it can be made
once token p + 1 is known, and it lies in the slot of token p:

    follow    behind each step: where a block is full, its missing rows are made, for others may find the block;
              else the hidden states wait, so that a head whose guesses do not pay costs next to nothing
    propose   what waits is made in one pass; the last output stands for the next hidden state and gives a guess,
              and the guess makes the next row, until there are enough. All sequences go side by side

Rows made of guesses lie behind the sequence's end and are made again from the target's own states later. In a block
that the prefix cache gave, the last row was made with the next token of whoever filled it: that may cost a draft its
acceptance, never a token its truth.
"""

from collections.abc import Sequence as Items
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from small4.engine.batch import StepBatch, build_batch
from small4.engine.config import EngineConfig
from small4.engine.kv_cache import CachePlan, PagedCache, waiting_shape
from small4.engine.paged_attention import ABSORB_UP_TO, PagedAttention
from small4.engine.runner import Runner, kernels_for
from small4.engine.sampler import argmax
from small4.engine.scheduler import Run
from small4.engine.sequence import Sequence
from small4.errors import ConfigError
from small4.model.config import DraftConfig, ModelConfig
from small4.model.draft_head import DraftHead
from small4.model.transformer import Transformer


@dataclass(slots=True)
class Seat:
    """Where one sequence stands: rows before `start` are in the cache, those up to `end` wait."""

    sequence: Sequence
    row: int  # of the waiting states
    start: int
    end: int
    has_guess: bool = False  # the output of row end - 1 is kept


class DraftRunner:
    """One draft head over the target's blocks."""

    def __init__(
        self, head: DraftHead, target: Runner, plan: CachePlan, config: EngineConfig, *, num_ids: int | None = None
    ) -> None:
        check_fits(head.config, target.model.config)
        check_types(head, target.model)
        self.head, self.target, self.num_ids = head, target, num_ids
        self.block_size = config.block_size
        dtype = head.norm.weight.dtype
        # Rounding the few rows of a head to fp8 would save little and cost it acceptance.
        self.cache = PagedCache(head.config.text, plan, replace(config, cache_format="model"), dtype)
        self.kernels = kernels_for(head.config.text, is_plain=config.is_plain)
        shape = waiting_shape(head.config.text, config)
        self.waiting = torch.zeros(shape, dtype=dtype)  # [seats, place in block, D]; behind the block: the guess
        self.seats: dict[int, Seat] = {}  # by sequence id
        self.free_rows = list(range(shape[0]))

    def follow(self, batch: StepBatch, hidden_TD: Tensor) -> None:
        """Take in the hidden states of a step, once its tokens are appended and counted."""
        due: list[tuple[Seat, Tensor]] = []
        to_rows, to_places, sources = list[int](), list[int](), list[int]()  # of states that wait
        for run, first in zip(batch.runs, batch.starts, strict=False):
            if run.sequence.status != "running":
                continue
            seat = self._seat(run)
            end = run.sequence.num_computed
            count = end - run.start
            if end // self.block_size > seat.start // self.block_size:
                due.append((seat, torch.cat([self._waiting_states(seat), hidden_TD[first : first + count]])))
            else:
                to_rows += [seat.row] * count
                to_places += [place % self.block_size for place in range(run.start, end)]
                sources += range(first, first + count)
            seat.end, seat.has_guess = end, False
        if sources:
            self.waiting[to_rows, to_places] = hidden_TD[sources]
        if due:
            self._make_rows(due)

    def propose(self, wishes: Items[tuple[Run, int]]) -> list[list[int]]:
        """For each run, up to so many guesses of what follows it; none where nothing of it has been seen yet."""
        drafts: list[list[int]] = [[] for _ in wishes]
        seats = {index: self.seats.get(run.sequence.id) for index, (run, _) in enumerate(wishes)}
        going = [index for index, seat in seats.items() if seat is not None and seat.end == wishes[index][0].start]
        ready = [seat for index in going if (seat := seats[index]) is not None]
        if due := [(seat, self._waiting_states(seat)) for seat in ready if not seat.has_guess]:
            self._make_rows(due)
        guess_BD = self.waiting[[seat.row for seat in ready], self.block_size]
        while going:
            for index, guess in zip(going, self._likeliest(guess_BD), strict=True):
                drafts[index].append(guess)
            more = [place for place, index in enumerate(going) if len(drafts[index]) < wishes[index][1]]
            going = [going[place] for place in more]
            if going:
                ends = [(wishes[index][0], drafts[index]) for index in going]
                guess_BD = self._next_guesses(ends, guess_BD[more])
        return drafts

    def forget(self, sequence: Sequence) -> None:
        """The sequence has ended."""
        seat = self.seats.pop(sequence.id, None)
        if seat is not None:
            self.free_rows.append(seat.row)

    def _seat(self, run: Run) -> Seat:
        """The seat of a run's sequence; a new one where its rows did not end at the run's start."""
        seat = self.seats.get(run.sequence.id)
        if seat is not None and seat.end == run.start:
            return seat
        if seat is not None:  # preempted meanwhile
            seat.start, seat.end, seat.has_guess = run.start, run.start, False
            return seat
        if not self.free_rows:  # some are held by sequences that were preempted
            for left in [seat.sequence for seat in self.seats.values() if seat.sequence.status != "running"]:
                self.forget(left)
        seat = self.seats[run.sequence.id] = Seat(run.sequence, self.free_rows.pop(), run.start, run.start)
        return seat

    def _waiting_states(self, seat: Seat) -> Tensor:
        first = seat.start % self.block_size  # what waits lies in one block
        return self.waiting[seat.row, first : first + seat.end - seat.start]

    def _make_rows(self, due: Items[tuple[Seat, Tensor]]) -> None:
        """Rows of all states that are given, in one pass; each seat keeps its last output."""
        by_id = {seat.sequence.id: (seat, hidden_XD) for seat, hidden_XD in due}
        runs = [
            Run(seat.sequence, seat.start, tuple(seat.sequence.tokens[seat.start + 1 : seat.end + 1]), 0, True)
            for seat, _ in due
        ]
        batch = build_batch(runs, self.block_size, ABSORB_UP_TO)
        hidden_TD = torch.cat([by_id[run.sequence.id][1] for run in batch.runs])
        guess_BD = self._run(batch, hidden_TD)[batch.draw_rows]
        for run, guess_D in zip(batch.runs, guess_BD, strict=True):
            seat = by_id[run.sequence.id][0]
            self.waiting[seat.row, self.block_size] = guess_D
            seat.start, seat.has_guess = seat.end, True

    def _next_guesses(self, ends: Items[tuple[Run, list[int]]], guess_BD: Tensor) -> Tensor:
        """Guessed states behind the last draft of each, from the guessed states before them."""
        runs = [Run(run.sequence, run.start + len(drafts) - 1, (drafts[-1],), 0, True) for run, drafts in ends]
        batch = build_batch(runs, self.block_size, ABSORB_UP_TO)
        return self._run(batch, guess_BD)

    def _run(self, batch: StepBatch, hidden_TD: Tensor) -> Tensor:
        """The head over runs whose tokens stand one place ahead of their states."""
        attention = PagedAttention(self.cache, batch, self.kernels)
        guess_TD: Tensor = self.head(self.target.embed(batch, ahead=1), hidden_TD, batch.positions_T, attention)
        return guess_TD

    def _likeliest(self, guess_BD: Tensor) -> list[int]:
        return argmax(self.target.model.logits(guess_BD)[:, : self.num_ids])


def check_fits(head: DraftConfig, model: ModelConfig) -> None:
    """Refuse a head that was made for another model."""
    text = head.text
    for name, theirs, ours in (("width", text.dim, model.dim), ("vocabulary", text.vocab_size, model.vocab_size)):
        if theirs != ours:
            raise ConfigError(
                f"the draft head was made for a model of {name} {theirs}, this one has {ours}; "
                "give the head that belongs to the model, or none"
            )


def check_types(head: DraftHead, model: Transformer) -> None:
    """Refuse a head in another type than the model, whose states it takes."""
    types = head.norm.weight.dtype, model.tok_embeddings.weight.dtype
    if types[0] != types[1]:
        raise ConfigError(f"the draft head is in {types[0]} and the model in {types[1]}; load both in one type")
