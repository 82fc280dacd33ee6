"""Finding and repeating what stands in the prompt: copies of some words, and one code among many.

The code of Belo is 4821. The code of Mira is 7735. ...  What is the code of Belo?        Belo 4821
"""

from small4.train.tasks.problem import Problem, is_whole_text
from small4.train.tasks.source import Source

MAX_CODES = 250  # about 4,000 tokens

_COPY = ("Repeat", "Say again", "Copy", "Write again")
_COPIED = (": {t}", " this: {t}", " after me: {t}", " these words: {t}")
_CODE = ("The code of {a} is {n}.", "{a} has the code {n}.", "{a}: code {n}.", "Code of {a}: {n}.")
_ASK = ("What is the code of {a}?", "Which code has {a}?", "Tell me the code of {a}.", "Code of {a}?")


def sample_copy(source: Source, most: int = 24) -> Problem:
    """Made-up words and numbers, to be repeated."""
    words = [
        str(source.number(10, 9999)) if source.chance(0.15) else source.made_up(source.number(1, 3)).lower()
        for _ in range(source.number(2, most))
    ]
    text = " ".join(words)
    return Problem(
        skill="copy",
        key=f"copy {text}",
        question=source.wording(_COPY, _COPIED).format(t=text),
        thought=f"{len(words)} words",
        answer=text,
        checker=is_whole_text,
    )


def sample_needle(source: Source, codes: int) -> Problem:
    """`codes` persons with a code each; one is asked for, before or after the list."""
    wording = source.wording(_CODE, ("|",), _ASK)
    told, asked = wording.split("|")
    owners = source.names(codes) if codes <= 20 else _many_names(source, codes)
    wanted = source.choice(owners)
    numbers = {owner: source.number(1000, 9999) for owner in owners}
    listed = " ".join(told.format(a=owner, n=number) for owner, number in numbers.items())
    question = asked.format(a=wanted)
    return Problem(
        skill=f"needle{codes}",
        key=f"needle {codes} {wanted} {numbers[wanted]}",
        question=f"{listed} {question}" if source.chance(0.7) else f"{question} {listed}",
        thought=f"{wanted} {numbers[wanted]}",
        answer=str(numbers[wanted]),
    )


def _many_names(source: Source, count: int) -> list[str]:
    names: dict[str, None] = {}
    while len(names) < count:
        names[source.made_up(source.number(2, 3))] = None
    return list(names)
