"""Claims: what a source says of a model or of one route to it, how old that is, and where sources contradict it.

Nothing in the catalogue is a fact by itself. Where claims differ, one is worked with and the others stay beside it:

1. what is said of a route goes before what is said of the model;
2. then by who says it: you, the provider or maker, a dated price list, a marketplace, a page;
3. then the newer, an undated one last;
4. then the careful value: the higher price, the smaller limit, "no".

Posture is not decided by who speaks: unless you said it yourself, the least private value that is claimed counts.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from typing import Literal

from small4.catalog.fields import MAX_AGE_DAYS, Field, Value
from small4.catalog.readings import finest_step

SourceKind = Literal["own", "provider", "price list", "marketplace", "page"]
SOURCE_RANK: tuple[SourceKind, ...] = ("own", "provider", "price list", "marketplace", "page")

Freshness = Literal["fresh", "stale", "undated"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where claims come from."""

    id: str
    name: str
    kind: SourceKind
    seen: date  # when it was read for the catalogue
    as_of: date | None = None  # the date that it gives itself; None: a copy without one, whose age nobody knows
    url: str = ""
    licence: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One value of one field, said by one source of one subject."""

    field: Field
    value: Value
    source: Source
    route: str | None = None  # None: of the model as a whole
    above_prompt_tokens: int = 0  # a price that holds for prompts longer than this
    valid_from: date | None = None
    note: str = ""

    def age_days(self, today: date) -> int | None:
        """Whole days since its source spoke; None where the source has no date."""
        return None if self.source.as_of is None else (today - self.source.as_of).days

    def freshness(self, today: date) -> Freshness:
        """Whether it is young enough for its kind; one without a date is never fresh."""
        age = self.age_days(today)
        if age is None:
            return "undated"
        return "fresh" if age <= MAX_AGE_DAYS[self.field.kind] else "stale"

    def agrees_with(self, other: "Claim") -> bool:
        """Whether both can be true."""
        return self.field.agree(self.value, other.value)


@dataclass(frozen=True, slots=True)
class Fact:
    """What is worked with, and everything else that was claimed of the same."""

    claim: Claim
    others: tuple[Claim, ...] = ()

    @property
    def field(self) -> Field:
        return self.claim.field

    @property
    def value(self) -> Value:
        return self.claim.value

    @property
    def conflicts(self) -> tuple[Claim, ...]:
        """The claims that cannot be true if this one is."""
        return tuple(other for other in self.others if not other.agrees_with(self.claim))


def settle(claims: Iterable[Claim], today: date) -> Fact | None:
    """The fact that claims of one field and one subject come to; None where nothing is claimed yet."""
    current = [claim for claim in claims if claim.valid_from is None or claim.valid_from <= today]
    if not current:
        return None
    chosen = _most_exact(min(current, key=_precedence), current)
    return Fact(chosen, tuple(claim for claim in current if claim is not chosen))


def _precedence(claim: Claim) -> tuple[object, ...]:
    rank = SOURCE_RANK.index(claim.source.kind)
    age = -claim.source.as_of.toordinal() if claim.source.as_of else 0
    start = -claim.valid_from.toordinal() if claim.valid_from else 0
    caution = claim.field.caution_rank(claim.value)
    if claim.field.kind == "posture":
        return (rank > 0, caution, rank, age)
    return (claim.route is None, rank, age, start, caution)


def _most_exact(chosen: Claim, claims: list[Claim]) -> Claim:
    """Of the claims that say the same from as good a place, the one with the most digits."""
    if chosen.field.shape not in ("money", "amount"):
        return chosen
    same = [
        claim
        for claim in claims
        if claim.agrees_with(chosen)
        and (claim.route, claim.source.kind) == (chosen.route, chosen.source.kind)
        and claim.above_prompt_tokens == chosen.above_prompt_tokens
    ]
    has_cents = chosen.field.shape == "money"
    return min(same, key=lambda claim: (finest_step(claim.value, has_cents), claim is not chosen))
