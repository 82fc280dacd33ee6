"""Models, the routes to them, and all that is claimed of both; `Catalog.find` takes any name of a model."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import date

from small4.catalog.claims import Claim, Fact, Source, settle
from small4.catalog.fields import FIELDS
from small4.errors import CatalogError, UnknownModelError


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """How a route is reached."""

    name: str  # lower case, parts divided by /
    provider: str  # as a person reads it
    model_id: str  # the model's name there
    dialect: str | None  # openai, responses, mistral, anthropic or google; None: none that small4 speaks
    base_url: str | None  # None: the local engine
    key_variable: str | None  # of the environment
    upstream: str | None = None  # the provider behind a marketplace that it is held to


@dataclass(frozen=True, slots=True, kw_only=True)
class Conflict:
    """Claims of one field that cannot all be true."""

    route: str | None  # None: of the model as a whole
    fact: Fact


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """One model: its names, its routes, and the claims of both."""

    id: str
    name: str
    maker: str
    aliases: tuple[str, ...]
    addresses: tuple[Address, ...]
    claims: tuple[Claim, ...]

    def address(self, route: str) -> Address:
        """How that route is reached."""
        for address in self.addresses:
            if address.name == route.lower():
                return address
        names = ", ".join(address.name for address in self.addresses)
        raise UnknownModelError(f"there is no route {route!r} to {self.name}; there are {names}")

    def facts(self, today: date, route: str | None = None) -> dict[str, Fact]:
        """Every field that anything is claimed of; for a route with what it takes over from the model."""
        return _settled((claim for claim in self.claims if _speaks_of(claim, route)), today)

    def conflicts(self, today: date) -> tuple[Conflict, ...]:
        """All contradictions: of the model, then of each route, without those that were told of the model."""
        found = [Conflict(route=None, fact=fact) for fact in self.facts(today).values() if fact.conflicts]
        told = {id(claim) for conflict in found for claim in (conflict.fact.claim, *conflict.fact.others)}
        for address in self.addresses:
            # What a page says of the model's abilities can contradict a route, whether routes take it over or not.
            claims = (
                c for c in self.claims if _speaks_of(c, address.name) or (not c.route and c.field.kind == "ability")
            )
            for fact in _settled(claims, today).values():
                new = tuple(claim for claim in fact.others if id(claim) not in told)
                if any(not claim.agrees_with(fact.claim) for claim in new):
                    found.append(Conflict(route=address.name, fact=Fact(fact.claim, new)))
        return tuple(found)


@dataclass(frozen=True, slots=True)
class Catalog:
    """All models that something is claimed of, and the sources that claim it."""

    cards: tuple[ModelCard, ...]
    sources: Mapping[str, Source] = field(default_factory=dict)

    def find(self, name: str) -> ModelCard:
        """The model of that id or alias, in any case."""
        wanted = name.strip().lower()
        for card in self.cards:
            if wanted in (card.id, *card.aliases):
                return card
        known = ", ".join(card.id for card in self.cards)
        raise UnknownModelError(f"the catalogue has no model {name!r}; it has {known}")

    def with_claims(self, claims: Iterable[Claim], model: str) -> "Catalog":
        """The same with more claims of one model; of routes that it has."""
        card, more = self.find(model), tuple(claims)
        unknown = {claim.route for claim in more} - {None, *(address.name for address in card.addresses)}
        if unknown:
            raise CatalogError(
                f"claims are made of routes that the catalogue does not have: {sorted(map(str, unknown))}"
            )
        cards = tuple(replace(c, claims=(*c.claims, *more)) if c is card else c for c in self.cards)
        sources = {**self.sources, **{claim.source.id: claim.source for claim in more}}
        return replace(self, cards=cards, sources=sources)


def _settled(claims: Iterable[Claim], today: date) -> dict[str, Fact]:
    """The facts that claims come to, in the order of the fields; prices of short prompts."""
    by_field: defaultdict[str, list[Claim]] = defaultdict(list)
    for claim in claims:
        if not claim.above_prompt_tokens:
            by_field[claim.field.name].append(claim)
    facts = {name: settle(by_field[name], today) for name in FIELDS if name in by_field}
    return {name: fact for name, fact in facts.items() if fact is not None}


def _speaks_of(claim: Claim, route: str | None) -> bool:
    return claim.route == route or (route is not None and claim.route is None and claim.field.is_inherited)
