"""Finding and repeating what stands in the prompt: copies of some words, and one code among many.

The code of Belo is 4821. The code of Mira is 7735. ...  What is the code of Belo?        Belo 4821
"""

from itertools import pairwise

from small4.chat import Message, TextPart, ThinkPart
from small4.train.tasks.problem import Problem, is_whole_text
from small4.train.tasks.source import Source

MAX_CODES = 300  # about 4,200 tokens
MANY_CODES = 40  # a list worth asking about several times while it is learned
MAX_EARLIER = 6  # questions about the same list before the one that counts

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
    told, asked = source.wording(_CODE, ("|",), _ASK).split("|")
    owners = source.names(codes) if codes <= 20 else _many_names(source, codes)
    numbers = {owner: source.number(1000, 9999) for owner in owners}
    listed = " ".join(told.format(a=owner, n=number) for owner, number in numbers.items())
    num_earlier = 0 if codes < MANY_CODES or source.held_out else source.number(0, MAX_EARLIER)
    *earlier, wanted = source.rng.sample(owners, num_earlier + 1)
    first = asked.format(a=(earlier or [wanted])[0])
    turns: list[Message] = []
    for owner, following in pairwise([*earlier, wanted]):
        answer = (ThinkPart(f"{owner} {numbers[owner]}"), TextPart(str(numbers[owner])))
        turns += [Message("assistant", answer), Message("user", asked.format(a=following))]
    return Problem(
        skill=f"needle{codes}",
        key=f"needle {codes} {wanted} {numbers[wanted]}",
        question=f"{listed} {first}" if earlier or source.chance(0.7) else f"{first} {listed}",
        thought=f"{wanted} {numbers[wanted]}",
        answer=str(numbers[wanted]),
        history=tuple(turns),
    )


def _many_names(source: Source, count: int) -> list[str]:
    names: dict[str, None] = {}
    while len(names) < count:
        names[source.made_up(source.number(2, 3))] = None
    return list(names)
