"""Which sequences run how many tokens in this step. No tensors.

    1. Everyone who decodes gets its token; what is left of `max_step_tokens` goes to prompts, oldest first, in chunks.
       Drafts come last of all: they take what room and blocks are left, for one step (`make_draft_room`).
    2. A sequence that needs a block where none is free takes those of the lowest in rank, which waits and recomputes.
       Rank is priority, then age: the highest always gets on, so that all end.
    3. Who waits is admitted in the fair order of `WaitingLine`, once there are blocks for all its tokens and one more
       for every sequence that runs. Nobody overtakes one who waits for room.

Blocks of a prompt that the prefix cache knows are shared instead of computed; at least the last token always runs.
"""

from collections.abc import Sequence as Items
from dataclasses import dataclass

from small4.engine.blocks import BlockPool
from small4.engine.config import EngineConfig
from small4.engine.prefix_cache import PrefixCache, extend_keys
from small4.engine.sequence import Sequence
from small4.engine.waiting_line import WaitingLine


@dataclass(frozen=True, slots=True)
class Run:
    """One sequence's part in a step: tokens from `start`, drafts behind them."""

    sequence: Sequence
    start: int  # place of the first token
    tokens: tuple[int, ...]
    num_drafts: int  # how many of `tokens`, at the end, are guesses
    draws: bool  # the sequence's last token is among them, so the next one is drawn

    @property
    def end(self) -> int:
        return self.start + len(self.tokens)

    @property
    def decodes(self) -> bool:
        """Whether it runs the last known token alone, drafts aside."""
        return self.draws and len(self.tokens) == 1 + self.num_drafts

    def with_drafts(self, drafts: Items[int]) -> "Run":
        """The same run with guesses behind its tokens."""
        return Run(self.sequence, self.start, (*self.tokens, *drafts), len(drafts), self.draws)


class Scheduler:
    """Owns the line, the running sequences and their blocks."""

    def __init__(self, config: EngineConfig, pool: BlockPool) -> None:
        self.config = config
        self.pool = pool
        self.prefixes = PrefixCache(pool)
        self.line = WaitingLine()
        self.running: list[Sequence] = []

    @property
    def num_waiting(self) -> int:
        return len(self.line)

    def all_sequences(self) -> list[Sequence]:
        """Whoever runs or waits."""
        return [*self.running, *self.line]

    def add(self, sequence: Sequence) -> None:
        """Take a new sequence into the line."""
        self.line.push(sequence)

    def schedule(self) -> list[Run]:
        """Plan one step; takes blocks, and may preempt and admit."""
        num_decoding = sum(len(s.tokens) - s.num_computed == 1 for s in self.running)
        room = self.config.max_step_tokens - num_decoding  # for prompts
        runs: list[Run] = []
        planned: set[int] = set()
        for sequence in sorted(self.running, key=lambda s: s.rank):
            if sequence.status != "running":
                continue  # preempted by one of higher rank
            planned.add(sequence.id)
            missing = len(sequence.tokens) - sequence.num_computed
            num_tokens = 1 if missing == 1 else min(missing, room)
            if num_tokens == 0 or not self._grow(sequence, sequence.num_computed + num_tokens, planned):
                continue
            room -= 0 if missing == 1 else num_tokens
            runs.append(_run(sequence, num_tokens))
        return runs + self._admit(room)

    def make_draft_room(self, run: Run, num_drafts: int) -> int:
        """Blocks for guesses behind a run, as far as free ones go; how many guesses they hold."""
        sequence, size = run.sequence, self.config.block_size
        num_drafts = min(num_drafts, (len(sequence.blocks) + self.pool.num_free) * size - run.end)
        has_room = self._take(sequence, run.end + num_drafts)
        assert has_room, "free blocks were counted just before"
        return num_drafts

    def computed(self, run: Run, num_accepted: int) -> None:
        """Count a finished run, once its new tokens are appended; `num_accepted` of its drafts were right."""
        sequence = run.sequence
        sequence.num_computed = run.end - run.num_drafts + num_accepted
        if run.draws:
            self.line.charge(sequence, num_accepted + 1)
        extend_keys(sequence.block_keys, sequence.root_key, sequence.tokens, self.config.block_size)
        for index in range(run.start // self.config.block_size, sequence.num_computed // self.config.block_size):
            self.prefixes.keep(sequence.block_keys[index], sequence.blocks[index])
        if run.decodes:  # a block that only guesses asked for, and wrong ones, is anyone's again
            num_blocks = self.blocks_for(len(sequence.tokens))
            self.pool.release(reversed(sequence.blocks[num_blocks:]))
            del sequence.blocks[num_blocks:]

    def end(self, sequence: Sequence) -> None:
        """Take a sequence out, wherever it is, and give its blocks back."""
        if sequence.status == "waiting":
            self.line.remove(sequence)
        elif sequence.status == "running":
            self.running.remove(sequence)
            self._give_back(sequence)
        sequence.status = "ended"

    def blocks_for(self, num_tokens: int) -> int:
        """Blocks that hold so many tokens."""
        return -(-num_tokens // self.config.block_size)

    def _grow(self, sequence: Sequence, num_tokens: int, planned: set[int]) -> bool:
        """Give the sequence blocks for so many tokens; preempts others, at last itself. False: it does not run now."""
        while not self._take(sequence, num_tokens):
            victim = max((s for s in self.running if s is sequence or s.id not in planned), key=lambda s: s.rank)
            self._preempt(victim)
            if victim is sequence:
                return False
        return True

    def _take(self, sequence: Sequence, num_tokens: int) -> bool:
        """Blocks for so many tokens, if they are free."""
        blocks = self.pool.take(max(0, self.blocks_for(num_tokens) - len(sequence.blocks)))
        if blocks is None:
            return False
        sequence.blocks += blocks
        return True

    def _preempt(self, sequence: Sequence) -> None:
        """Back into the line, without blocks; what it has drawn stays."""
        self.running.remove(sequence)
        self._give_back(sequence)
        sequence.num_computed = 0
        sequence.num_preemptions += 1
        sequence.status = "waiting"
        self.line.push(sequence)

    def _give_back(self, sequence: Sequence) -> None:
        # The end of a prefix is of use only with its beginning, so it is the first to be reused.
        self.pool.release(reversed(sequence.blocks), self.prefixes.is_cached)
        sequence.blocks = []

    def _admit(self, room: int) -> list[Run]:
        runs: list[Run] = []
        while room > 0 and len(self.running) < self.config.max_running:
            sequence = self.line.first()
            if sequence is None or not self._place(sequence):
                break
            num_tokens = min(len(sequence.tokens) - sequence.num_computed, room)
            room -= num_tokens
            runs.append(_run(sequence, num_tokens))
        return runs

    def _place(self, sequence: Sequence) -> bool:
        """Move a sequence from the line to the running ones, with blocks for all its tokens, if they are there."""
        size = self.config.block_size
        extend_keys(sequence.block_keys, sequence.root_key, sequence.tokens, size)
        found = self.prefixes.find(sequence.block_keys[: (len(sequence.tokens) - 1) // size])
        needed = self.blocks_for(len(sequence.tokens) + 1) - len(found)
        num_free_found = sum(self.pool.num_holders[block] == 0 for block in found)
        spare = len(self.running)  # one each, or the next step would preempt the one admitted
        if needed + num_free_found + spare > self.pool.num_free:
            return False
        self.line.admit(sequence, 0 if sequence.num_preemptions else len(sequence.tokens) - len(found) * size)
        self.pool.share(found)
        fresh = self.pool.take(needed)
        assert fresh is not None, "free blocks were counted just before"
        sequence.blocks = found + fresh
        sequence.num_computed = len(found) * size
        if sequence.num_preemptions == 0:
            sequence.num_cached = sequence.num_computed
        sequence.status = "running"
        self.running.append(sequence)
        return True


def _run(sequence: Sequence, num_tokens: int) -> Run:
    start = sequence.num_computed
    tokens = sequence.tokens[start : start + num_tokens]
    return Run(sequence, start, tuple(tokens), 0, draws=start + num_tokens == len(sequence.tokens))
