"""Work on lists and strings: sort, reverse, the largest, no repeats, counted letters, balanced brackets.

Each line of a thought is complete in itself: it restates what is left, does one thing, and ends in what is left then.

    sort      47 12 85: least 12 left 47 85                          until nothing is left
    reverse   k f m: last m left k f
    largest   47 12: 47                                              the best so far and the next
    no repeats   b in a c: new, a c b      a in a c b: seen, a c b
    count     l e t t e r; l 0 e 1 t 1 t 1 e 2 r 2
    brackets  ( opens: (     [ opens: ( [     ] closes: (     ) closes: none
"""

from collections.abc import Sequence

from small4.train.tasks.problem import Problem, is_whole_text
from small4.train.tasks.source import Source

_OPEN = ("", "Please ", "Now ")
_LISTED = (": {l}", " this list: {l}", " these: {l}", ": {l}.")
_SORT = ("sort", "order", "put in order")
_REVERSE = ("reverse", "turn round", "write backwards")
_LARGEST = ("find the largest of", "give the largest number of", "pick the largest in")
_REPEATS = ("remove repeats from", "drop what comes twice in", "keep one of each in")
_COUNT = ("how many {c} are in {l}", "how many times is {c} in {l}", "count the letter {c} in {l}", "count {c} in {l}")
_BALANCED = ("are these brackets balanced", "do these brackets match", "is this balanced", "check these brackets")
_END = ("", "?", " ?")

_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_PAIRS = {"(": ")", "[": "]", "{": "}"}


def sample_sort(source: Source, size: int) -> Problem:
    """Different numbers below a hundred, from the least to the largest."""
    numbers = source.rng.sample(range(1, 100), size)
    lines, left = [], list(numbers)
    while left:
        least = min(left)
        rest = [number for number in left if number != least]
        lines.append(f"{_text(left)}: least {least} left {_text(rest)}")
        left = rest
    question = _ask(source, _SORT, _LISTED, _text(numbers))
    return _listed("sort", size, question, numbers, lines, _text(sorted(numbers)))


def sample_reverse(source: Source, size: int) -> Problem:
    """Letters, the last one first."""
    letters = [source.choice(_LETTERS) for _ in range(size)]
    lines = [
        f"{_text(letters[:end])}: last {letters[end - 1]} left {_text(letters[: end - 1])}"
        for end in range(size, 0, -1)
    ]
    question = _ask(source, _REVERSE, _LISTED, _text(letters))
    return _listed("reverse", size, question, letters, lines, _text(letters[::-1]))


def sample_largest(source: Source, size: int) -> Problem:
    """The largest of some numbers below a thousand."""
    numbers = source.rng.sample(range(1, 1000 if source.chance(0.3) else 100), size)
    lines, best = [], numbers[0]
    for number in numbers[1:]:
        lines.append(f"{best} {number}: {max(best, number)}")
        best = max(best, number)
    return _listed("largest", size, _ask(source, _LARGEST, _LISTED, _text(numbers)), numbers, lines, str(best))


def sample_repeats(source: Source, size: int) -> Problem:
    """Each item once, where it came first."""
    few = source.rng.sample(_LETTERS, max(2, size - 2))
    letters = [source.choice(few) for _ in range(size)]
    kept: list[str] = []
    lines = []
    for letter in letters:
        before, is_new = _text(kept), letter not in kept
        kept += [letter] if is_new else []
        lines.append(f"{letter} in {before or 'none'}: {'new' if is_new else 'seen'}, {_text(kept)}")
    return _listed("repeats", size, _ask(source, _REPEATS, _LISTED, _text(letters)), letters, lines, _text(kept))


def sample_count(source: Source) -> Problem:
    """How often a letter is in a word."""
    word = source.made_up(source.number(2, 4)).lower()
    letter = source.choice(word) if source.chance(0.8) else source.choice(_LETTERS)
    counts = [word[: place + 1].count(letter) for place in range(len(word))]
    running = " ".join(f"{each} {count}" for each, count in zip(word, counts, strict=True))
    question = source.wording(_OPEN, _COUNT, _END).format(c=letter, l=word)
    return Problem(
        skill="count",
        key=f"count {letter} {word}",
        question=_capital(question),
        thought=f"{_text(word)}; {running}",
        answer=str(word.count(letter)),
    )


def sample_brackets(source: Source, size: int) -> Problem:
    """Whether every bracket is closed by its own kind, in order; `size` is even."""
    text = _balanced(source, size)
    if source.chance(0.5):
        text = _disturbed(source, text)
    lines, is_balanced = _check_brackets(text)
    question = source.wording(_OPEN, _BALANCED, (": {l}", "? {l}", "? {l} ")).format(l=_text(text)).strip()
    return Problem(
        skill=f"brackets{size}",
        key=f"brackets {text}",
        question=_capital(question),
        thought="\n".join(lines),
        answer="yes" if is_balanced else "no",
    )


def _balanced(source: Source, size: int) -> str:
    """A balanced text, drawn bracket by bracket."""
    text, stack = "", ""
    while len(text) < size:
        must_close, may_close = len(stack) == size - len(text), bool(stack)
        if must_close or (may_close and source.chance(0.45)):
            text, stack = text + _PAIRS[stack[-1]], stack[:-1]
        else:
            opened = source.choice("([{")
            text, stack = text + opened, stack + opened
    return text


def _disturbed(source: Source, text: str) -> str:
    """Two brackets change places, or one is replaced: counting alone does not tell the first."""
    brackets = list(text)
    first, second = source.rng.sample(range(len(text)), 2)
    if source.chance(0.7):
        brackets[first], brackets[second] = brackets[second], brackets[first]
    else:
        brackets[first] = source.choice("()[]{}")
    return "".join(brackets)


def _check_brackets(text: str) -> tuple[list[str], bool]:
    """The lines of the thought up to the first fault, and whether there is none."""
    lines, stack = [], ""
    for bracket in text:
        if bracket in _PAIRS:
            stack += bracket
            lines.append(f"{bracket} opens: {_text(stack)}")
        elif stack and _PAIRS[stack[-1]] == bracket:
            stack = stack[:-1]
            lines.append(f"{bracket} closes: {_text(stack) or 'none'}")
        else:
            return [*lines, f"{bracket} wrong"], False
    return [*lines, f"end: {_text(stack) or 'none'}"], not stack


def _listed(
    skill: str, size: int, question: str, items: Sequence[object], lines: Sequence[str], answer: str
) -> Problem:
    # Two items have few orders: their sets alone would leave too little to hold out, so the order counts.
    return Problem(
        skill=f"{skill}{size}",
        key=f"{skill} {_text(items)}",
        question=question,
        thought="\n".join(line.rstrip() for line in lines),
        answer=answer,
        checker=is_whole_text,
    )


def _ask(source: Source, what: tuple[str, ...], listed: tuple[str, ...], text: str) -> str:
    return _capital(source.wording(_OPEN, what, listed).format(l=text))


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _text(items: Sequence[object]) -> str:
    return " ".join(map(str, items))
