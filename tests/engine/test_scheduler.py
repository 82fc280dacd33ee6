"""Pool, prefix cache and scheduler, driven for many steps without a model: nothing leaks, nobody starves."""

from collections import Counter
from collections.abc import Sequence as Items
from random import Random

import pytest

from small4.chat import Sampling
from small4.engine.blocks import BlockPool
from small4.engine.config import EngineConfig
from small4.engine.draw_state import DrawState
from small4.engine.prefix_cache import PrefixCache, extend_keys, root_key
from small4.engine.scheduler import Run, Scheduler
from small4.engine.sequence import Priority, Sequence
from small4.engine.speculative import Speculation, most_drafts
from small4.engine.steering import Steering
from small4.engine.waiting_line import WaitingLine
from tests.engine.tiny import Eager

STEERING = Steering(DrawState(Sampling(), vocab_size=8))


def sequence_of(number: int, prompt: list[int], max_tokens: int = 8, **options: object) -> Sequence:
    arguments = {"root_key": b"", "stop_ids": frozenset(), "steering": STEERING} | options
    return Sequence(id=number, tokens=list(prompt), num_prompt=len(prompt), max_tokens=max_tokens, **arguments)  # type: ignore[arg-type]


class Simulation:
    """A scheduler under random load; tokens come from the random generator instead of a model."""

    def __init__(self, seed: int) -> None:
        self.rng = rng = Random(seed)
        self.config = EngineConfig(block_size=4, max_step_tokens=rng.choice([8, 32]), max_running=rng.choice([3, 8]))
        self.scheduler = Scheduler(self.config, BlockPool(24))
        self.alive: list[Sequence] = []
        self.arrived_at: dict[int, int] = {}
        self.seen: Counter[str] = Counter()
        self.longest_wait = 0

    def step(self, now: int) -> None:
        if len(self.alive) < 12 and self.rng.random() < 0.3:
            self.submit(now)
        if self.alive and self.rng.random() < 0.02:
            self.leave(self.rng.choice(self.alive), "aborted")
        plan = self.guess(self.scheduler.schedule())
        self.check(plan)
        for run in plan:
            self.compute(run, now)

    def guess(self, plan: list[Run]) -> list[Run]:
        """Random guesses behind some runs that decode, where there is room."""
        room, guessing = self.config.max_step_tokens - sum(len(run.tokens) for run in plan), []
        for run in plan:
            wish = min(3, room, most_drafts(run.sequence)) if run.decodes and self.rng.random() < 0.3 else 0
            count = self.scheduler.make_draft_room(run, wish) if wish else 0
            room -= count
            guessing.append(run.with_drafts([self.rng.randrange(3) for _ in range(count)]))
        return guessing

    def submit(self, now: int) -> None:
        rng = self.rng
        alphabet = rng.choice([1, 2, 50])  # few different tokens: many prompts with the same beginning
        prompt = [rng.randrange(alphabet) for _ in range(rng.randint(1, 50))]
        leader = None
        for _ in range(rng.choice([1, 1, 1, 2])):
            number = self.seen["submitted"]
            options = {"caller": rng.choice("abc"), "priority": rng.choice(list(Priority)), "leader": leader}
            sequence = sequence_of(number, prompt, rng.randint(1, 40), root_key=rng.choice([b"x", b"y"]), **options)
            leader = leader or sequence
            self.seen["submitted"] += 1
            self.arrived_at[number] = now
            self.alive.append(sequence)
            self.scheduler.add(sequence)

    def compute(self, run: Run, now: int) -> None:
        sequence = run.sequence
        num_accepted = self.rng.randint(0, run.num_drafts)
        if run.draws:
            sequence.tokens += [*run.tokens[len(run.tokens) - run.num_drafts :][:num_accepted], self.rng.randrange(3)]
        self.scheduler.computed(run, num_accepted)
        if sequence.num_output >= sequence.max_tokens:
            self.longest_wait = max(self.longest_wait, now - self.arrived_at[sequence.id])
            self.leave(sequence, "ended")

    def leave(self, sequence: Sequence, how: str) -> None:
        self.seen[how] += 1
        self.seen["preempted"] += sequence.num_preemptions
        self.seen["cached"] += sequence.num_cached
        self.scheduler.end(sequence)
        self.alive.remove(sequence)

    def check(self, plan: list[Run]) -> None:
        """What has to hold before every pass."""
        scheduler, size = self.scheduler, self.config.block_size
        holders = Counter(block for sequence in self.alive for block in sequence.blocks)
        assert [holders[block] for block in range(24)] == scheduler.pool.num_holders
        assert scheduler.pool.num_free == sum(count == 0 for count in scheduler.pool.num_holders)
        assert sum(len(run.tokens) for run in plan) <= self.config.max_step_tokens
        assert len(scheduler.running) <= self.config.max_running
        assert {s.id for s in scheduler.running} == {s.id for s in self.alive if s.status == "running"}
        assert scheduler.num_waiting == sum(sequence.status == "waiting" for sequence in self.alive)
        assert len({run.sequence.id for run in plan}) == len(plan)
        assert bool(plan) == bool(self.alive), "while anyone is here, someone runs"
        written = Counter(run.sequence.blocks[place // size] for run in plan for place in range(run.start, run.end, 1))
        for run in plan:
            assert run.end <= len(run.sequence.blocks) * size
            for block in {run.sequence.blocks[place // size] for place in range(run.start, run.end)}:
                assert scheduler.pool.num_holders[block] == 1, "a block that is written has one holder"
        assert sum(written.values()) == sum(len(run.tokens) for run in plan)
        decoding = {s.id for s in scheduler.running if len(s.tokens) - s.num_computed == 1}
        assert decoding <= {run.sequence.id for run in plan}, "whoever decodes gets a token in every step"

    def drain(self, now: int) -> None:
        while self.alive:
            for run in self.scheduler.schedule():
                self.compute(run, now)
            now += 1


def simulate(seed: int, num_steps: int) -> Simulation:
    simulation = Simulation(seed)
    for now in range(num_steps):
        simulation.step(now)
    simulation.drain(num_steps)
    assert simulation.scheduler.pool.num_free == 24
    assert simulation.seen["submitted"] == simulation.seen["ended"] + simulation.seen["aborted"]
    return simulation


@pytest.mark.parametrize("seed", range(6))
def test_a_long_run_keeps_every_block_in_order_and_ends_every_sequence(seed: int) -> None:
    simulation = simulate(seed, 1500)
    assert min(simulation.seen[name] for name in ("ended", "aborted", "preempted", "cached")) > 0, simulation.seen
    assert simulation.longest_wait < 1200


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 120))
def test_a_million_steps_keep_every_block_in_order_and_starve_nobody(seed: int) -> None:
    assert simulate(seed, 50_000).longest_wait < 3000


def running(scheduler: Scheduler, *sequences: Sequence) -> None:
    """Have the sequences past their prompts, each with a first token drawn."""
    for sequence in sequences:
        scheduler.add(sequence)
    for run in scheduler.schedule():
        run.sequence.tokens.append(1)
        scheduler.computed(run, 0)


def test_drafts_take_no_room_from_a_prompt() -> None:
    scheduler = Scheduler(EngineConfig(block_size=4, max_step_tokens=8, max_running=4), BlockPool(24))
    first, second = sequence_of(0, [5, 6]), sequence_of(1, [5, 7])
    running(scheduler, first, second)
    scheduler.add(sequence_of(2, list(range(20))))
    speculation = Speculation(Guesses(), Eager(5), scheduler)
    plan = speculation.extend(scheduler.schedule())
    assert [(len(run.tokens), run.num_drafts) for run in plan] == [(1, 0), (1, 0), (6, 0)]
    scheduler.end(plan[2].sequence)
    plan = speculation.extend(scheduler.schedule())
    assert [run.num_drafts for run in plan] == [5, 1]


def test_drafts_take_no_block_that_another_needs_now_or_next() -> None:
    scheduler = Scheduler(EngineConfig(block_size=4, max_running=2), BlockPool(4))
    first, second = sequence_of(0, [5, 6, 7], 20), sequence_of(1, [6, 7], 20)
    running(scheduler, first, second)
    speculation = Speculation(Guesses(), Eager(9), scheduler)
    for _ in range(4):  # both come to need a second block; drafts would take two for the first one alone
        for run in speculation.extend(scheduler.schedule()):
            run.sequence.tokens.append(9)
            scheduler.computed(run, 0)
    assert (first.num_preemptions, second.num_preemptions) == (0, 0)
    assert [sequence.num_output for sequence in (first, second)] == [5, 5]


class Guesses:
    def propose(self, wishes: Items[tuple[Run, int]]) -> list[list[int]]:
        return [[0] * count for _, count in wishes]


def test_a_block_counts_its_holders() -> None:
    pool = BlockPool(3)
    assert pool.take(4) is None
    blocks = pool.take(2)
    assert blocks is not None
    pool.share(blocks)
    pool.release(blocks)
    assert pool.num_free == 1
    pool.release(blocks)
    assert pool.num_free == 3
    with pytest.raises(AssertionError, match="more often"):
        pool.release(blocks)


def test_blocks_with_contents_are_reused_last_and_the_oldest_of_them_first() -> None:
    pool = BlockPool(4)
    cache = PrefixCache(pool)
    blocks = pool.take(3)
    assert blocks is not None
    for key, block in zip([b"a", b"b"], blocks[:2], strict=True):
        cache.keep(key, block)
    pool.release(blocks, cache.is_cached)
    assert pool.take(2) is not None  # the one never used and the one without contents
    assert cache.find([b"a", b"b"]) == blocks[:2]
    assert pool.take(1) == [blocks[0]]
    assert cache.find([b"a"]) == []
    assert cache.find([b"b"]) == [blocks[1]]


def test_a_key_stands_for_everything_before_it() -> None:
    def keys(tokens: list[int], salt: bytes = b"", images: tuple[bytes, ...] = ()) -> list[bytes]:
        chain: list[bytes] = []
        extend_keys(chain, root_key(salt, images), tokens, 2)
        return chain

    assert len(keys([1, 2, 3, 4, 5])) == 2
    assert keys([1, 2, 3, 4])[0] == keys([1, 2, 9, 9])[0]
    assert keys([1, 2, 3, 4])[1] != keys([9, 9, 3, 4])[1]
    assert keys([1, 2])[0] != keys([1, 2], salt=b"other")[0]
    assert keys([1, 2])[0] != keys([1, 2], images=(b"image",))[0]
    assert root_key(b"ab", (b"c",)) != root_key(b"a", (b"bc",))


def served(line: WaitingLine, count: int) -> list[str]:
    order = []
    for _ in range(count):
        sequence = line.first()
        assert sequence is not None
        line.admit(sequence, len(sequence.tokens))
        order.append(f"{sequence.priority.name[0]}{sequence.caller}")
    return order


def line_of(*sequences: Sequence) -> WaitingLine:
    line = WaitingLine()
    for sequence in sequences:
        line.push(sequence)
    return line


def test_a_caller_with_many_requests_waits_its_turn() -> None:
    many = [sequence_of(i, [0] * 10, caller="a") for i in range(6)]
    line = line_of(*many, sequence_of(6, [0] * 10, caller="b"), sequence_of(7, [0] * 10, caller="b"))
    assert served(line, 5) == ["Na", "Nb", "Na", "Nb", "Na"]


def test_a_caller_with_long_prompts_gets_fewer_of_them() -> None:
    long = [sequence_of(i, [0] * 30, caller="a") for i in range(4)]
    short = [sequence_of(i + 4, [0] * 10, caller="b") for i in range(6)]
    assert served(line_of(*long, *short), 8).count("Nb") == 6


def test_idling_saves_nothing_up() -> None:
    line = line_of(*(sequence_of(i, [0] * 10, caller="a") for i in range(10)))
    served(line, 8)
    for i in range(4):
        line.push(sequence_of(20 + i, [0] * 10, caller="late"))
    assert served(line, 4) in (["Nlate", "Na", "Nlate", "Na"], ["Na", "Nlate", "Na", "Nlate"])


def test_callers_who_never_come_back_leave_nothing_behind() -> None:
    line = WaitingLine()
    for i in range(2000):
        line.push(sequence_of(i, [0] * 10, caller=f"once {i}"))
        if i >= 3:  # there is always someone who waits
            served(line, 1)
    assert len(line._callers[Priority.NORMAL].times) < 20


def test_newcomers_do_not_hold_back_who_was_served_before() -> None:
    line = line_of(*(sequence_of(i, [0] * 10, caller="steady") for i in range(40)))
    order = []
    for i in range(40):
        line.push(sequence_of(100 + i, [0] * 10, caller=f"new {i}"))
        order += served(line, 1)
    assert order.count("Nsteady") >= 5  # the newcomers who wait grow in number, so its share falls


def test_a_higher_class_goes_first_and_a_lower_one_still_comes() -> None:
    high = [sequence_of(i, [0] * 10, priority=Priority.HIGH) for i in range(40)]
    low = [sequence_of(i + 40, [0] * 10, priority=Priority.NORMAL) for i in range(4)]
    order = served(line_of(*high, *low), 30)
    assert order[0] == "H"
    assert 2 <= order.count("N") <= 4  # one token in nine


def test_a_preempted_sequence_comes_before_its_callers_later_ones() -> None:
    line = line_of(sequence_of(5, [0], caller="a"), sequence_of(6, [0], caller="a"))
    line.push(sequence_of(2, [0], caller="a"))
    first = line.first()
    assert first is not None
    assert first.id == 2
