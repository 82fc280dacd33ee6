"""System prompts obeyed: which language to answer in, how long, and in which form.

The thought names the rule and then does what the question asks; the answer keeps to the rule exactly.
"""

from collections.abc import Callable

from small4.train.tasks.arithmetic import sum_problem
from small4.train.tasks.faq import NAMES
from small4.train.tasks.faq_texts import FAQ, LANGUAGES, PLAIN_INTENTS
from small4.train.tasks.problem import Problem, is_whole_text
from small4.train.tasks.source import Source

_ALWAYS = ("", "Always ", "You must ", "Please ")
_IN_LANGUAGE = ("answer in {x}.", "reply in {x}.", "speak {x}.", "write in {x}.")

Rule = tuple[tuple[str, ...], Callable[[int, int, int], str]]  # how it is told; the answer from a, b and their sum

_LENGTHS: dict[str, Rule] = {
    "the number only": (
        ("answer with the number only.", "say only the number.", "give one number, no words."),
        lambda a, b, total: str(total),
    ),
    "three words": (
        ("answer in three words.", "use exactly three words.", "keep to three words."),
        lambda a, b, total: f"It is {total}",
    ),
    "a full sentence": (
        ("answer in a full sentence.", "use a full sentence.", "write whole sentences."),
        lambda a, b, total: f"The sum of {a} and {b} is {total}.",
    ),
}
_FORMS: dict[str, Rule] = {
    "JSON": (
        ('answer in JSON with the key "answer".', 'write JSON, key "answer".', 'reply as JSON with "answer".'),
        lambda a, b, total: f'{{"answer": {total}}}',
    ),
    "brackets": (
        ("put the answer in square brackets.", "use square brackets.", "write the answer in [ ]."),
        lambda a, b, total: f"[{total}]",
    ),
    "bold": (
        ("write the answer in bold.", "use bold text.", "make the answer bold."),
        lambda a, b, total: f"**{total}**",
    ),
    "a list": (
        ("answer with a list.", "use a list.", "write a list: numbers, then the sum."),
        lambda a, b, total: f"- {a}\n- {b}\n- {total}",
    ),
    "end with done": (
        ("end with the word done.", "the last word is done.", "say done at the end."),
        lambda a, b, total: f"{total} done",
    ),
}


def sample_language(source: Source) -> Problem:
    """A question about the nano in one language, to be answered in another."""
    asked, wanted = source.choice(LANGUAGES), source.choice(LANGUAGES)
    intent = source.choice([intent for intent in FAQ[asked] if intent not in PLAIN_INTENTS])
    question = source.choice(FAQ[asked][intent][0])
    return Problem(
        skill="obey_language",
        key=f"language {wanted} {question}",
        question=question,
        thought=f"rule: {NAMES[wanted]}\n{intent}, in {NAMES[wanted]}",
        answer=FAQ[wanted][intent][1],
        checker=is_whole_text,
        system=_capital(source.wording(_ALWAYS, _IN_LANGUAGE).format(x=NAMES[wanted])),
    )


def sample_length(source: Source) -> Problem:
    """A small sum, answered at the length that the system asks for."""
    return _ruled(source, "obey_length", _LENGTHS)


def sample_form(source: Source) -> Problem:
    """A small sum, answered in the form that the system asks for."""
    return _ruled(source, "obey_form", _FORMS)


def _ruled(source: Source, skill: str, rules: dict[str, Rule]) -> Problem:
    name = source.choice(tuple(rules))
    told, write = rules[name]
    a, b = source.number(2, 49), source.number(2, 49)
    plain = sum_problem((a, b), source.rng)
    return Problem(
        skill=skill,
        key=plain.key,
        question=plain.question,
        thought=f"rule: {name}\n{plain.thought}",
        answer=write(a, b, a + b),
        checker=is_whole_text,
        system=_capital(source.wording(_ALWAYS, told)),
    )


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
