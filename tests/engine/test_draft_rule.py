"""The rule of speculation under invented costs and luck: it comes close to the best there is, and rests elsewhere."""

from dataclasses import dataclass
from random import Random

import pytest

from small4.engine.draft_rule import LAST_REST, DraftRule


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What is true, in plain steps; the rule has to find out."""

    num_decoding: int = 1
    share: float = 0.7  # of drafts that are right, of those reached
    at_all: float = 0.1
    each: float = 0.05
    noise: float = 0.0  # most part by which a step takes longer than it should
    hitches: float = 0.0  # share of steps that take five times as long

    def exact_seconds(self, num_drafts: int) -> float:
        return 0.003 * (1.0 + (self.at_all if num_drafts else 0.0) + self.each * num_drafts)

    def seconds(self, num_drafts: int, rng: Random) -> float:
        return (
            self.exact_seconds(num_drafts)
            * (1.0 + self.noise * rng.random())
            * (5.0 if rng.random() < self.hitches else 1.0)
        )

    def num_right(self, num_drafts: int, rng: Random) -> int:
        right = 0
        while right < num_drafts and rng.random() < self.share:
            right += 1
        return right


def run(rule: DraftRule, world: World, num_steps: int, rng: Random) -> tuple[float, int]:
    """Tokens per second of so many steps, noise left out, and how many of them had drafts."""
    tokens, seconds, num_drafting = 0, 0.0, 0
    for _ in range(num_steps):
        rule.begin(world.num_decoding)
        lengths = [rule.length(i, 8) for i in range(world.num_decoding)]
        for i, count in enumerate(lengths):
            right = world.num_right(count, rng)
            tokens += 1 + right
            if count:
                rule.verified(i, count, right)
        rule.end(sum(lengths), world.seconds(sum(lengths), rng))
        seconds += world.exact_seconds(sum(lengths))
        num_drafting += any(lengths)
    return tokens / seconds, num_drafting


def best_rate(world: World) -> float:
    """Tokens per second with the best fixed number of drafts."""
    rates = []
    for length in range(7):
        tokens = world.num_decoding * sum(world.share**right for right in range(length + 1))
        rates.append(tokens / world.exact_seconds(world.num_decoding * length))
    return max(rates)


@pytest.mark.parametrize("seed", range(12))
def test_the_rule_comes_close_to_the_best_length_in_any_world(seed: int) -> None:
    rng = Random(seed)
    num_decoding = rng.choice([1, 4, 16])
    world = World(
        num_decoding=num_decoding,
        share=rng.choice([0.02, 0.3, 0.6, 0.9]),
        at_all=rng.choice([0.0, 0.1, 0.4]),
        each=rng.choice([0.02, 0.15, 0.6, 1.2]) / num_decoding,
        noise=0.3,
        hitches=rng.choice([0.0, 0.1]),
    )
    assert run(DraftRule(6), world, 1500, rng)[0] > 0.92 * best_rate(world), world


def test_where_drafts_never_pay_they_are_tried_in_few_steps_only() -> None:
    rule, rng = DraftRule(4), Random(1)
    run(rule, World(share=0.5, each=1.0), 1000, rng)
    _, num_drafting = run(rule, World(share=0.5, each=1.0), 12_800, rng)
    assert num_drafting <= 12_800 / LAST_REST + 1


def test_resting_sequences_try_in_the_same_steps() -> None:
    rule, rng = DraftRule(4), Random(1)
    world = World(num_decoding=16, share=0.05, each=0.3)
    run(rule, world, 1000, rng)
    assert run(rule, world, 3_840, rng)[1] <= 3_840 / LAST_REST + 1


def test_drafts_that_begin_to_be_right_are_taken_up_again() -> None:
    rule, rng = DraftRule(4), Random(2)
    run(rule, World(share=0.0), 1500, rng)
    _, num_drafting = run(rule, World(share=0.95), 3000, rng)
    assert num_drafting > 1500


def test_drafts_that_become_dear_are_given_up() -> None:
    rule, rng = DraftRule(4), Random(3)
    assert run(rule, World(share=0.6), 500, rng)[1] > 400
    run(rule, World(share=0.6, each=1.0), 100, rng)
    assert run(rule, World(share=0.6, each=1.0), 1000, rng)[1] < 50


def test_each_number_of_sequences_is_soon_known_by_itself() -> None:
    rule, rng = DraftRule(4), Random(4)
    dear, cheap = World(share=0.7, each=1.0), World(num_decoding=32, share=0.7, each=0.002)
    for world in (dear, cheap):  # where the second is still taken for as dear as the first
        run(rule, world, 200, rng)
    for _ in range(5):
        run(rule, dear, 200, rng)
        _, num_drafting = run(rule, cheap, 200, rng)
        assert num_drafting > 150
    assert run(rule, dear, 200, rng)[1] < 30


def test_a_sequence_whose_drafts_are_wrong_rests_beside_one_whose_drafts_are_right() -> None:
    rule, drafts = DraftRule(4), [0, 0]
    for _ in range(1000):
        rule.begin(2)
        lengths = [rule.length(i, 8) for i in range(2)]
        for i, (count, right) in enumerate(zip(lengths, [0, lengths[1]], strict=True)):
            if count:
                rule.verified(i, count, right)
            drafts[i] += count
        rule.end(sum(lengths), 1.0 + 0.1 * sum(lengths))
    assert drafts[0] < 100
    assert drafts[1] > 3000


def test_a_draft_is_never_longer_than_what_can_be_kept() -> None:
    rule, rng = DraftRule(4), Random(5)
    run(rule, World(share=0.95), 200, rng)
    rule.begin(1)
    if rule.length(0, 8) == 0:  # the plain step of the 32
        rule.end(0, 0.003)
        rule.begin(1)
    assert [rule.length(0, limit) for limit in (-1, 0, 2, 9)] == [0, 0, 2, 4]


def test_a_number_of_sequences_that_keeps_changing_is_no_reason_to_try_and_try() -> None:
    rule, rng, num_drafting = DraftRule(4), Random(6), 0
    run(rule, World(num_decoding=32, share=0.3, each=1.0 / 32), 300, rng)
    for num_decoding in range(31, 0, -1):
        num_drafting += run(rule, World(num_decoding=num_decoding, share=0.3, each=1.0 / num_decoding), 4, rng)[1]
    assert num_drafting <= 5


def test_what_is_kept_of_sequences_goes_with_them() -> None:
    rule = DraftRule(4)
    for number in range(1000):
        rule.begin(1)
        rule.length(number, 4)
        rule.verified(number, 4, 1)
        rule.end(4, 1.0)
        rule.forget(number)
    assert rule.sequences == {}
