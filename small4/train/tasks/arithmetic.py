"""Sums, differences, chains of both, and products, with thoughts that work digit by digit.

Every line of a thought is complete in itself and of fixed width: it restates its two numbers with leading zeros, works
the columns from the right with the carry written out, and ends in the new total. All lines therefore look alike at
equal distances, which is what a small model needs to learn the step once and use it any number of times
(`docs/nano.md` tells what failed before).

    017+048: 7+8+0=15 1+4+1=06 0+0+0=00 so 065              columns with carry
    065-036: 15-6-0=09 06-3-1=02 00-0-0=00 so 029           the top digit is written with its borrowed ten
    47*36: 7*6=42 4*6=24 7*3=21 024+021=045 045+004=049 4*3=12 012+004=016 so 1692
"""

from collections.abc import Callable, Sequence
from random import Random

from small4.train.tasks.problem import Problem

Number = Callable[[Random], int]

MAX_TOTAL = 999  # what three columns hold

_PLAIN = ("{e}", "{e}", "{e}", "{e}=", "{e} = ?", "What is {e}?", "What is {e}?", "How much is {e}?", "Compute {e}.")
_POLITE = ("Please work out {e}.", "Can you calculate {e}?", "Calculate {e}", "Tell me {e}.", "what's {e}", "Solve {e}")
_ADD_LISTS = ("Add {l}.", "What is the sum of {l}?", "Sum up {l}.", "What do {l} make together?")


def sample_sum(rng: Random, operands: int) -> Problem:
    """A sum of `operands` numbers, mostly of two digits."""
    return sum_problem(tuple(_two_digits(rng) for _ in range(operands)), rng)


def sample_chain(rng: Random, operands: int) -> Problem:
    """Numbers joined by + and -, at least one -; the running total stays in 0 to 999, but may end below 0 for two."""
    while True:
        numbers = [_two_digits(rng) for _ in range(operands)]
        signs = ["+", *(rng.choice("+-") for _ in numbers[1:])]
        if "-" not in signs:
            continue
        if operands == 2 and numbers[0] < numbers[1] and rng.random() < 0.7:
            numbers.reverse()  # differences below zero are rarer than the others
        if operands == 2 or _stays_in_range(signs, numbers):
            return chain_problem(tuple(signs), tuple(numbers), rng)


def sample_product(rng: Random, digits: int) -> Problem:
    """A two-digit number times one of `digits` digits (1 or 2), in either order."""
    a = rng.randint(10, 99)
    b = rng.randint(2, 9) if digits == 1 else rng.randint(10, 99)
    return product_problem(a, b, rng)


def sum_problem(numbers: Sequence[int], rng: Random) -> Problem:
    """The sum of given numbers in a random wording."""
    return Problem(
        skill=f"sum{len(numbers)}",
        key="sum " + " ".join(map(str, sorted(numbers))),
        question=_word_sum(numbers, rng),
        thought=_running_total(["+"] * len(numbers), numbers),
        answer=str(sum(numbers)),
    )


def chain_problem(signs: Sequence[str], numbers: Sequence[int], rng: Random) -> Problem:
    """Signed numbers in a random wording; `signs[0]` is "+"."""
    total = sum(n if s == "+" else -n for s, n in zip(signs, numbers, strict=True))
    pairs = sorted(zip(signs, numbers, strict=True))
    if total < 0:
        small, large = numbers[0], numbers[1]
        thought = f"{large} is more than {small}\n" + _running_total(["+", "-"], [large, small]) + "\nminus"
    else:
        thought = _running_total(signs, numbers)
    return Problem(
        skill=f"chain{len(numbers)}",
        key="chain " + " ".join(f"{s}{n}" for s, n in pairs),
        question=_word_expression(_join(signs, numbers, rng), rng),
        thought=thought,
        answer=str(total),
    )


def product_problem(a: int, b: int, rng: Random) -> Problem:
    """a times b, where a has two digits and b one or two; a single digit may be asked for first."""
    first, second = (b, a) if b < 10 and rng.random() < 0.3 else (a, b)
    space = " " if rng.random() < 0.4 else ""
    sign = rng.choice(("*", "*", "*", "x", "×", " times "))
    expression = f"{first}{sign if sign == ' times ' else space + sign + space}{second}"
    return Problem(
        skill="product2x1" if b < 10 else "product2x2",
        key=f"product {min(a, b)} {max(a, b)}",
        question=_word_expression(expression, rng),
        thought=_multiply(a, b),
        answer=str(a * b),
    )


# --- thoughts ---


def _running_total(signs: Sequence[str], numbers: Sequence[int]) -> str:
    total, lines = numbers[0], []
    for sign, number in zip(signs[1:], numbers[1:], strict=True):
        lines.append(add_columns(total, number) if sign == "+" else subtract_columns(total, number))
        total = total + number if sign == "+" else total - number
    return "\n".join(lines)


def add_columns(a: int, b: int) -> str:
    """One line: a plus b, column by column from the right."""
    columns, carry = [], 0
    for x, y in zip(f"{a:03}"[::-1], f"{b:03}"[::-1], strict=True):
        column = int(x) + int(y) + carry
        columns.append(f"{x}+{y}+{carry}={column:02}")
        carry = column // 10
    return f"{a:03}+{b:03}: {' '.join(columns)} so {a + b:03}"


def subtract_columns(a: int, b: int) -> str:
    """One line: a minus b, which is not below zero, column by column."""
    columns, borrow = [], 0
    for x, y in zip(f"{a:03}"[::-1], f"{b:03}"[::-1], strict=True):
        top = int(x) + (10 if int(x) - int(y) - borrow < 0 else 0)
        columns.append(f"{top:02}-{y}-{borrow}={top - int(y) - borrow:02}")
        borrow = int(top >= 10)
    return f"{a:03}-{b:03}: {' '.join(columns)} so {a - b:03}"


def _multiply(a: int, b: int) -> str:
    """Cross products of digits: ones, then tens, then hundreds, each with what was carried."""
    a1, a0 = divmod(a, 10)
    b1, b0 = divmod(b, 10)
    ones = a0 * b0
    steps = [f"{a0}*{b0}={ones:02}", f"{a1}*{b0}={a1 * b0:02}"]
    tens = a1 * b0
    if b >= 10:
        steps += [f"{a0}*{b1}={a0 * b1:02}", _plus(tens, a0 * b1)]
        tens += a0 * b1
    steps.append(_plus(tens, ones // 10))
    tens += ones // 10
    if b >= 10:
        steps += [f"{a1}*{b1}={a1 * b1:02}", _plus(a1 * b1, tens // 10)]
    return f"{a}*{b}: {' '.join(steps)} so {a * b:04}"


def _plus(a: int, b: int) -> str:
    return f"{a:03}+{b:03}={a + b:03}"


# --- wording ---


def _word_sum(numbers: Sequence[int], rng: Random) -> str:
    if rng.random() < 0.2:
        listed = ", ".join(map(str, numbers[:-1])) + f" and {numbers[-1]}"
        return rng.choice(_ADD_LISTS).format(l=listed)
    return _word_expression(_join(["+"] * len(numbers), numbers, rng), rng)


def _word_expression(expression: str, rng: Random) -> str:
    return rng.choice(_PLAIN if rng.random() < 0.7 else _POLITE).format(e=expression)


def _join(signs: Sequence[str], numbers: Sequence[int], rng: Random) -> str:
    style = rng.random()
    if style < 0.1:
        words = {"+": " plus ", "-": " minus "}
        return str(numbers[0]) + "".join(words[s] + str(n) for s, n in zip(signs[1:], numbers[1:], strict=True))
    space = " " if style < 0.4 else ""
    return str(numbers[0]) + "".join(f"{space}{s}{space}{n}" for s, n in zip(signs[1:], numbers[1:], strict=True))


def _two_digits(rng: Random) -> int:
    return rng.randint(10, 99) if rng.random() < 0.9 else rng.randint(0, 9)


def _stays_in_range(signs: Sequence[str], numbers: Sequence[int]) -> bool:
    total = 0
    for sign, number in zip(signs, numbers, strict=True):
        total += number if sign == "+" else -number
        if not 0 <= total <= MAX_TOTAL:
            return False
    return True
