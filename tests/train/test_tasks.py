"""Every generated thought is right in each of its steps, and no training problem is held out."""

import re
from random import Random

import pytest

from small4.train.data import sample_problem
from small4.train.tasks.arithmetic import chain_problem, product_problem, sample_chain, sample_sum, sum_problem
from small4.train.tasks.problem import Problem, is_held_out
from small4.train.tasks.skills import ARITHMETIC
from small4.train.tasks.source import Source

EQUATION = re.compile(r"(\d+(?:[-+*]\d+)+)=(\d+)")


@pytest.mark.parametrize("skill", list(ARITHMETIC))
def test_every_equation_in_a_thought_holds(skill: str) -> None:
    rng = Random(1)
    for _ in range(300):
        problem = ARITHMETIC[skill](Source(rng))
        equations = EQUATION.findall(problem.thought)
        assert equations
        for left, right in equations:
            assert _value(left) == int(right), problem.thought


@pytest.mark.parametrize("skill", list(ARITHMETIC))
def test_a_thought_ends_in_the_answer(skill: str) -> None:
    rng = Random(2)
    for _ in range(300):
        problem = ARITHMETIC[skill](Source(rng))
        last = int(re.findall(r"so (\d+)", problem.thought)[-1])
        assert (-last if problem.thought.endswith("minus") else last) == int(problem.answer)


def test_the_answer_of_a_sum_is_its_total() -> None:
    rng = Random(3)
    for _ in range(200):
        problem = sample_sum(rng, 4)
        assert sum(map(int, re.findall(r"\d+", problem.question))) == int(problem.answer)


def test_a_difference_may_end_below_zero() -> None:
    problem = chain_problem(["+", "-"], [12, 30], Random(0))
    assert problem.answer == "-18"
    assert problem.thought.startswith("30 is more than 12\n030-012:")


def test_running_totals_of_longer_chains_stay_in_three_columns() -> None:
    rng = Random(4)
    for _ in range(300):
        totals = re.findall(r"so (\d+)", sample_chain(rng, 4).thought)
        assert len(totals) == 3
        assert all(len(total) == 3 for total in totals)


def test_wording_and_order_do_not_change_which_side_of_the_split_a_problem_is_on() -> None:
    assert len({sum_problem(numbers, Random(i)).key for i, numbers in enumerate([(17, 48), (48, 17)])}) == 1
    assert product_problem(47, 36, Random(0)).key == product_problem(36, 47, Random(1)).key


def test_training_and_evaluation_problems_never_meet() -> None:
    rng = Random(5)
    mix = {"sum2": 1.0, "sum4": 1.0, "product2x2": 1.0, "chain2": 1.0}
    trained = {sample_problem(mix, rng).key for _ in range(3000)}
    asked = {sample_problem(mix, rng, held_out=True).key for _ in range(1000)}
    assert trained.isdisjoint(asked)
    assert all(map(is_held_out, asked))


def test_about_one_key_in_ten_is_held_out() -> None:
    share = sum(is_held_out(f"sum {a} {b}") for a in range(100) for b in range(100)) / 10_000
    assert 0.09 < share < 0.11


@pytest.mark.parametrize(
    ("text", "right"),
    [("126", True), ("The answer is 126", True), ("17+109 = 126.", True), ("127", False), ("", False), ("12 6", False)],
)
def test_the_checker_reads_the_last_number(text: str, right: bool) -> None:
    assert Problem("sum2", "sum 17 109", "17+109", "", "126").accepts(text) is right


def _value(expression: str) -> int:
    """What an expression of one kind of sign comes to; leading zeros are digits."""
    if "*" in expression:
        first, second = expression.split("*")
        return int(first) * int(second)
    return sum(int(sign + number) for sign, number in re.findall(r"([-+]?)(\d+)", expression))
