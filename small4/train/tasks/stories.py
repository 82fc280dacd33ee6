"""Word problems as small dependency graphs: who has how many, told by one to six operations.

    Mia has 12 apples. Tom has 5 more than Mia. Ana has twice as many as Tom. How many apples do Ana and Mia have
    together?

    Mia so 012
    Tom = Mia+5 012+005: 2+5+0=07 1+0+0=01 0+0+0=00 so 017
    Ana = Tom+Tom 017+017: 7+7+0=14 1+1+1=03 0+0+0=00 so 034
    all = Ana+Mia 034+012: 4+2+0=06 3+1+0=04 0+0+0=00 so 046

Every operation builds on the one before it, so all are needed; others who own something may be told of as well. A line
names what it adds, writes out both numbers, works the columns and ends in the new number.
"""

from dataclasses import dataclass

from small4.train.tasks.arithmetic import MAX_TOTAL, add_columns, subtract_columns
from small4.train.tasks.problem import Problem
from small4.train.tasks.source import Source

MAX_OPERATIONS = 6

_ITEMS = tuple(
    "apples books coins cards eggs cups pens stones shells stamps balls keys boxes flowers pears nuts tickets".split()
)
_HAS = ("{a} has {n} {item}. ", "{a} owns {n} {item}. ", "{a} starts with {n} {item}. ")
_MORE = ("{a} has {n} more than {b}. ", "{a} has {n} {item} more than {b}. ")
_FEWER = ("{a} has {n} fewer than {b}. ", "{a} has {n} {item} fewer than {b}. ")
_TWICE = ("{a} has twice as many as {b}. ", "{a} has two times as many as {b}. ")
_BOTH = ("{a} has as many as {b} and {c} together. ", "{a} has what {b} and {c} have together. ")
_ASK = ("How many {item} does {a} have?", "How many does {a} have?", "Tell me how many {item} {a} has.")
_ASK_ALL = ("How many {item} do {b} and {c} have together?", "How many do {b} and {c} have in all?")
_SEPARATOR = "|"  # between the phrases of one wording


@dataclass(frozen=True, slots=True)
class _Fact:
    """One sentence: who comes to own how many, by what."""

    owner: str
    kind: str  # has, more, fewer, twice, both, all
    value: int
    number: int = 0  # that the sentence names
    first: str = ""
    second: str = ""
    line: str = ""  # of the thought


def sample_story(source: Source, operations: int) -> Problem:
    """A problem of exactly `operations` steps."""
    facts: list[_Fact] | None = None
    while facts is None:
        facts = _draw(source, operations)
    wording = source.wording(
        *(tuple(p + _SEPARATOR for p in part) for part in (_HAS, _MORE, _FEWER, _TWICE, _BOTH)), *_last(facts)
    )
    phrases = dict(zip(("has", "more", "fewer", "twice", "both", "ask"), wording.split(_SEPARATOR), strict=True))
    item = source.choice(_ITEMS)
    told = facts[:-1] if facts[-1].kind == "all" else facts
    sentences = [_say(phrases[fact.kind], fact, item) for fact in told]
    if source.chance(0.3):
        stranger = _Fact(source.made_up(3), "has", source.number(2, 99))
        sentences.insert(source.number(1, len(sentences)), _say(phrases["has"], _numbered(stranger), item))
    return Problem(
        skill=f"story{operations}",
        key="story " + " ".join(f"{fact.kind}{fact.number}" for fact in facts),
        question="".join(sentences) + _say(phrases["ask"], facts[-1], item).strip(),
        thought="\n".join(fact.line for fact in facts),
        answer=str(facts[-1].value),
    )


def _draw(source: Source, operations: int) -> list[_Fact] | None:
    """The facts in the order told, or None where a number leaves the range."""
    owners = source.names(operations + 2)
    facts = [_root(owners.pop(), source.number(2, 60))]
    for index in range(operations):
        before = facts[-1]
        kind = source.choice(("more", "more", "fewer", "fewer", "twice", "both"))
        if kind == "both" and index == operations - 1 and len(facts) > 1:
            kind = "all"
        if kind == "twice":
            fact = _sum(owners.pop(), kind, before, before)
        elif kind in ("both", "all"):
            if len(facts) == 1:
                facts.insert(0, _root(owners.pop(), source.number(2, 60)))
            other = source.choice([fact for fact in facts if fact.owner != before.owner])
            fact = _sum("all" if kind == "all" else owners.pop(), kind, before, other)
        else:
            fact = _step(owners.pop(), kind, before, source.number(2, 60))
        if not 0 < fact.value <= MAX_TOTAL:
            return None
        facts.append(fact)
    return facts


def _root(owner: str, number: int) -> _Fact:
    return _Fact(owner, "has", number, number, line=f"{owner} so {number:03}")


def _numbered(fact: _Fact) -> _Fact:
    return _Fact(fact.owner, fact.kind, fact.value, fact.value)


def _sum(owner: str, kind: str, first: _Fact, second: _Fact) -> _Fact:
    line = ""
    value = first.value + second.value
    if value <= MAX_TOTAL:
        line = f"{owner} = {first.owner}+{second.owner} {add_columns(first.value, second.value)}"
    return _Fact(owner, kind, value, 0, first.owner, second.owner, line)


def _step(owner: str, kind: str, first: _Fact, number: int) -> _Fact:
    sign, value = ("+", first.value + number) if kind == "more" else ("-", first.value - number)
    line = ""
    if 0 < value <= MAX_TOTAL:
        columns = (add_columns if kind == "more" else subtract_columns)(first.value, number)
        line = f"{owner} = {first.owner}{sign}{number} {columns}"
    return _Fact(owner, kind, value, number, first.owner, "", line)


def _last(facts: list[_Fact]) -> tuple[tuple[str, ...]]:
    return (_ASK_ALL,) if facts[-1].kind == "all" else (_ASK,)


def _say(phrase: str, fact: _Fact, item: str) -> str:
    return phrase.format(a=fact.owner, n=fact.number, b=fact.first, c=fact.second, item=item)
