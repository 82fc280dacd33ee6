"""A route as the gateway sees it: what the claims of it come to, with everything unknown left unknown."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Literal

from small4.catalog.card import Address, ModelCard
from small4.catalog.claims import Fact
from small4.catalog.price import UNKNOWN_PRICES, Prices, prices_of
from small4.catalog.readings import lowest_amount
from small4.catalog.regions import HERE

LOCAL = "local"

Zdr = Literal["yes", "contract", "no"]  # contract: for customers who have signed one
Training = Literal["no", "opt-out", "yes"]

# What a request may use, by the ability that it takes: OpenRouter's words.
PARAMETERS: dict[str, tuple[str, ...]] = {
    "tools": ("tools", "tool_choice"),
    "json": ("response_format",),
    "structured_output": ("response_format", "structured_outputs"),
    "reasoning": ("reasoning", "reasoning_effort", "include_reasoning"),
    "temperature": ("temperature",),
}
# What the engine of this machine honours.
LOCAL_PARAMETERS = frozenset(
    "temperature top_p top_k min_p max_tokens min_tokens stop seed n logprobs top_logprobs logit_bias frequency_penalty"
    " presence_penalty repetition_penalty response_format structured_outputs tools tool_choice parallel_tool_calls"
    " reasoning reasoning_effort include_reasoning".split()
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Posture:
    """What becomes of a prompt on a route; None is unknown, and unknown is never a yes."""

    region: str | None = None
    zdr: Zdr | None = None
    training: Training | None = None
    retention_days: int | None = None
    is_distillable: bool | None = None  # whether another model may be trained on the answers
    age_days: int | None = None  # of the oldest claim above; None: one has no date, or nothing is claimed

    @property
    def keeps_nothing(self) -> bool:
        """Whether it is known that no prompt stays after its answer, and nothing contradicts it."""
        says_so = self.zdr == "yes" or self.retention_days == 0
        return says_so and self.zdr in ("yes", None) and self.retention_days in (0, None)


# Nothing leaves the machine, so there is nobody who could keep it or learn from it.
LOCAL_POSTURE = Posture(region=HERE, zdr="yes", training="no", retention_days=0, is_distillable=True, age_days=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One way to reach a model."""

    address: Address
    model: str
    prices: Prices = UNKNOWN_PRICES
    context_tokens: int | None = None
    max_output_tokens: int | None = None
    quantization: str | None = None
    abilities: Mapping[str, bool] = field(default_factory=dict)  # what is not in it is unknown
    reads_images: bool | None = None
    parameters: frozenset[str] = frozenset()  # that are known to be supported
    posture: Posture = Posture()

    @property
    def name(self) -> str:
        return self.address.name

    @property
    def is_local(self) -> bool:
        return self.address.base_url is None


def routes_of(card: ModelCard, today: date) -> tuple[Route, ...]:
    """Every hosted route of a model."""
    return tuple(route_of(card, address, today) for address in card.addresses)


def route_of(card: ModelCard, address: Address, today: date) -> Route:
    """What is claimed of one route on a day."""
    facts = card.facts(today, address.name)
    abilities = {name: fact.value is True for name in PARAMETERS if (fact := facts.get(name))}
    modalities = facts.get("input_modalities")
    quantization = facts.get("quantization")
    return Route(
        address=address,
        model=card.id,
        prices=prices_of(card, address.name, today),
        context_tokens=_number(facts.get("context")),
        max_output_tokens=_number(facts.get("output_limit")),
        quantization=None if quantization is None else str(quantization.value),
        abilities=abilities,
        reads_images="image" in modalities.value if modalities and isinstance(modalities.value, tuple) else None,
        parameters=_parameters(facts.get("parameters"), abilities),
        posture=_posture(facts, today),
    )


def local_route(
    model: str,
    *,
    prices: Prices = UNKNOWN_PRICES,
    context_tokens: int | None = None,
    quantization: str | None = None,
    reads_images: bool | None = None,
) -> Route:
    """The engine of this machine as a route; its price is unknown unless somebody says what the machine costs."""
    address = Address(
        name=LOCAL, provider="this machine", model_id=model, dialect=None, base_url=None, key_variable=None
    )
    return Route(
        address=address,
        model=model,
        prices=prices,
        context_tokens=context_tokens,
        max_output_tokens=context_tokens,
        quantization=quantization,
        abilities=dict.fromkeys((*PARAMETERS, "grammar"), True),
        reads_images=reads_images,
        parameters=LOCAL_PARAMETERS,
        posture=LOCAL_POSTURE,
    )


def _parameters(fact: Fact | None, abilities: Mapping[str, bool]) -> frozenset[str]:
    listed = fact.value if fact is not None and isinstance(fact.value, tuple) else ()
    meant = (word for ability, is_there in abilities.items() if is_there for word in PARAMETERS[ability])
    denied = {word for ability, is_there in abilities.items() if not is_there for word in PARAMETERS[ability]}
    return frozenset({*listed, *meant} - denied)


def _posture(facts: Mapping[str, Fact], today: date) -> Posture:
    names = ("region", "zdr", "training", "retention_days", "distillable")
    ages = [facts[name].claim.age_days(today) for name in names if name in facts]
    known = [age for age in ages if age is not None]
    return Posture(
        region=_undisputed(facts.get("region")),
        zdr=_undisputed(facts.get("zdr"), has_careful_side=True),  # type: ignore[arg-type]
        training=_undisputed(facts.get("training"), has_careful_side=True),  # type: ignore[arg-type]
        retention_days=_number(facts.get("retention_days")),
        is_distillable=facts["distillable"].value is True if "distillable" in facts else None,
        age_days=max(known) if known and len(known) == len(ages) else None,
    )


def _undisputed(fact: Fact | None, *, has_careful_side: bool = False) -> str | None:
    """A word of posture; one that is disputed, where neither side is the careful one, is unknown."""
    if fact is None or (fact.conflicts and not has_careful_side and fact.claim.source.kind != "own"):
        return None
    return str(fact.value)


def _number(fact: Fact | None) -> int | None:
    return None if fact is None else int(lowest_amount(fact.value))
