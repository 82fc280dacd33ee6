"""What can be claimed of a model or a route: each field's unit, how soon a claim of it goes stale, and how two agree.

Every claim of the catalogue is of one of these fields; an unknown one is refused when the catalogue is loaded.
"""

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from small4.catalog.readings import amounts_agree, lowest_amount
from small4.catalog.regions import EU, is_region, region_covers
from small4.errors import CatalogError

Kind = Literal["price", "limit", "ability", "posture", "measurement", "identity"]
Value = bool | int | str | Decimal | tuple[str, ...]
Shape = Literal["money", "amount", "truth", "word", "words", "texts", "region"]

# A claim that is older has to be looked at again before it is believed.
MAX_AGE_DAYS: dict[Kind, int] = {
    "price": 30,
    "posture": 30,
    "limit": 90,
    "ability": 90,
    "identity": 365,
    "measurement": 0,  # of the same day
}

Caution = Literal["highest", "lowest", "first", "no", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One thing that can be claimed."""

    name: str
    kind: Kind
    shape: Shape
    unit: str = ""
    caution: Caution = "none"  # which value is the careful one, where sources of the same rank differ
    order: tuple[str, ...] = ()  # of words, the most careful first
    is_inherited: bool = False  # what is said of the model holds for a route of which nothing is said

    def agree(self, left: Value, right: Value) -> bool:
        """Whether two values can both be true: equal, or one the rounding of the other."""
        if self.shape in ("money", "amount"):
            return amounts_agree(left, right, has_cents=self.shape == "money")
        if self.shape == "words":
            return set(_words(left)) == set(_words(right))
        if self.shape == "texts":
            return True
        if self.shape == "region":
            return region_covers(str(left), str(right)) or region_covers(str(right), str(left))
        return left == right

    def caution_rank(self, value: Value) -> tuple[Decimal | int, ...]:
        """Sorts careful values first."""
        if self.caution in ("highest", "lowest"):
            amount = lowest_amount(value)
            return (-amount if self.caution == "highest" else amount,)
        if self.shape == "region":
            return (int(value == EU),)  # of EU and FR, which agree, the narrower
        if self.caution == "first":
            return (self.order.index(str(value)),)
        return (int(value is True),) if self.caution == "no" else (0,)

    def check(self, value: object, where: str) -> Value:
        """The value as it was written, or an error that says what the field takes."""
        checked = _CHECKS[self.shape](value)
        if checked is None or (self.order and checked not in self.order):
            wanted = ", ".join(self.order) or _WANTED[self.shape]
            raise CatalogError(f"{where}: {self.name} is {value!r}; it takes {wanted}")
        return checked


def field_named(name: str, where: str) -> Field:
    """The field of that name; the error lists all."""
    if name not in FIELDS:
        raise CatalogError(f"{where}: there is no field {name!r}; there are {', '.join(FIELDS)}")
    return FIELDS[name]


def _as_amount(value: object) -> Value | None:
    if isinstance(value, bool) or not isinstance(value, int | Decimal | str):
        return None
    try:
        return value if lowest_amount(value) >= 0 else None
    except CatalogError:
        return None


def _as_words(value: object) -> Value | None:
    is_list = isinstance(value, list | tuple) and all(isinstance(word, str) for word in value)
    return tuple(value) if is_list else None  # type: ignore[arg-type]


def _words(value: Value) -> tuple[str, ...]:
    return value if isinstance(value, tuple) else (str(value),)


_CHECKS: dict[Shape, Callable[[object], Value | None]] = {
    "money": _as_amount,
    "amount": _as_amount,
    "truth": lambda value: value if isinstance(value, bool) else None,
    "word": lambda value: value if isinstance(value, str) and value else None,
    "words": _as_words,
    "texts": _as_words,
    "region": lambda value: value if isinstance(value, str) and is_region(value) else None,
}
_WANTED: dict[Shape, str] = {
    "money": "an amount of money as text or number, such as 0.15",
    "amount": "a whole number, or text such as 256K or 6.5B",
    "truth": "true or false",
    "word": "text",
    "words": "a list of texts",
    "texts": "a list of texts",
    "region": "EU, a country's two letters, or HERE",
}


def _prices() -> list[Field]:
    names = ("input", "output", "cache_read", "cache_write", "reasoning")
    batch = ("batch.input", "batch.output", "batch.cache_read")
    per_token = [
        Field(name=f"price.{name}", kind="price", shape="money", unit="USD/Mtok", caution="highest")
        for name in (*names, *batch)
    ]
    per_call = Field(name="price.request", kind="price", shape="money", unit="USD", caution="highest")
    per_image = Field(name="price.image", kind="price", shape="money", unit="USD", caution="highest")
    return [*per_token, per_call, per_image]


def _abilities() -> list[Field]:
    of_the_model = {"tools", "reasoning"}  # the others are of the software that serves it
    names = ("tools", "json", "structured_output", "reasoning", "temperature", "attachments")
    return [
        Field(name=name, kind="ability", shape="truth", caution="no", is_inherited=name in of_the_model)
        for name in names
    ]


FIELDS: dict[str, Field] = {
    field.name: field
    for field in (
        *_prices(),
        Field(name="context", kind="limit", shape="amount", unit="tokens", caution="lowest"),
        Field(name="input_limit", kind="limit", shape="amount", unit="tokens", caution="lowest"),
        Field(name="output_limit", kind="limit", shape="amount", unit="tokens", caution="lowest"),
        Field(name="quantization", kind="ability", shape="word"),
        *_abilities(),
        Field(name="input_modalities", kind="ability", shape="words", is_inherited=True),
        Field(name="output_modalities", kind="ability", shape="words", is_inherited=True),
        Field(name="parameters", kind="ability", shape="words"),
        Field(name="region", kind="posture", shape="region"),
        Field(name="zdr", kind="posture", shape="word", caution="first", order=("no", "contract", "yes")),
        Field(name="training", kind="posture", shape="word", caution="first", order=("yes", "opt-out", "no")),
        Field(name="retention_days", kind="posture", shape="amount", unit="days", caution="highest"),
        Field(name="logging", kind="posture", shape="word"),
        Field(name="third_parties", kind="posture", shape="word"),
        Field(name="dpa", kind="posture", shape="truth", caution="no"),
        Field(name="transfer", kind="posture", shape="word"),
        Field(name="distillable", kind="posture", shape="truth", caution="no"),
        Field(name="throughput", kind="measurement", shape="amount", unit="tok/s", caution="lowest"),
        Field(name="first_token", kind="measurement", shape="amount", unit="ms", caution="highest"),
        Field(name="uptime", kind="measurement", shape="amount", unit="%", caution="lowest"),
        Field(name="slug", kind="identity", shape="word"),
        Field(name="released", kind="identity", shape="word"),
        Field(name="version", kind="identity", shape="word"),
        Field(name="knowledge_until", kind="identity", shape="word"),
        Field(name="licence", kind="identity", shape="word"),
        Field(name="weights", kind="identity", shape="word", order=("open", "none")),
        Field(name="self_host", kind="identity", shape="truth"),
        Field(name="commercial_use", kind="identity", shape="word"),
        Field(name="total_parameters", kind="identity", shape="amount"),
        Field(name="active_parameters", kind="identity", shape="amount"),
        Field(name="stacks", kind="identity", shape="texts"),
        Field(name="best_for", kind="identity", shape="texts"),
    )
}
