"""A thought is closed when its budget is spent, or at once when the caller wants the answer now."""

import pytest

from small4.engine.thought import ThoughtLimit
from small4.errors import SamplingError

OPEN, CLOSE = 34, 35


def emitted(limit: ThoughtLimit, drawn: list[int]) -> list[int]:
    return [limit.apply(token) for token in drawn]


def test_a_thought_is_closed_when_its_budget_is_spent() -> None:
    assert emitted(ThoughtLimit(2, OPEN, CLOSE), [OPEN, 7, 8, 9, 9, 9]) == [OPEN, 7, 8, CLOSE, 9, 9]


def test_a_thought_within_its_budget_is_left_alone() -> None:
    assert emitted(ThoughtLimit(2, OPEN, CLOSE), [OPEN, 7, 8, CLOSE, 9]) == [OPEN, 7, 8, CLOSE, 9]


def test_a_budget_of_nothing_closes_at_once() -> None:
    assert emitted(ThoughtLimit(0, OPEN, CLOSE, is_open=True), [7]) == [CLOSE]


def test_thoughts_of_one_answer_share_the_budget() -> None:
    drawn = [OPEN, 7, CLOSE, 5, OPEN, 8, 9, 6]
    assert emitted(ThoughtLimit(2, OPEN, CLOSE), drawn) == [OPEN, 7, CLOSE, 5, OPEN, 8, CLOSE, 6]


def test_no_budget_leaves_every_token() -> None:
    drawn = [OPEN, *range(100, 200), CLOSE, 5]
    assert emitted(ThoughtLimit(None, OPEN, CLOSE), drawn) == drawn


@pytest.mark.parametrize("budget", [None, 50])
def test_answer_now_ends_an_open_thought_with_the_next_token(budget: int | None) -> None:
    limit = ThoughtLimit(budget, OPEN, CLOSE)
    assert emitted(limit, [OPEN, 7, 8]) == [OPEN, 7, 8]
    limit.close_now()
    assert emitted(limit, [9, 10, 11]) == [CLOSE, 10, 11]


def test_answer_now_before_the_thought_leaves_it_empty() -> None:
    limit = ThoughtLimit(None, OPEN, CLOSE)
    limit.close_now()
    assert emitted(limit, [OPEN, 7, 8]) == [OPEN, CLOSE, 8]


def test_a_negative_budget_is_refused() -> None:
    with pytest.raises(SamplingError, match="budget"):
        ThoughtLimit(-1, OPEN, CLOSE)
