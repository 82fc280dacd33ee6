"""Which models are served, and under which names."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from small4.errors import ConfigError, UnknownModelError
from small4.gateway.policy import split_variant
from small4.providers.provider import Provider
from small4.wire.model_entry import ModelEntry

if TYPE_CHECKING:
    from small4.gateway.assembly import RoutedModel

MAX_NAMED = 10  # models that an error names


class Tokenizes(Protocol):
    """What `/tokenize` and `/detokenize` need; `tokenizer.tekken.Tokenizer` is one, and loads much."""

    def encode_text(self, text: str) -> list[int]: ...

    def decode(self, token_ids: list[int]) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A model under the id and the aliases that callers may use."""

    id: str
    provider: Provider
    aliases: tuple[str, ...] = ()
    tokenizer: Tokenizes | None = None
    owner: str = "local"
    is_routed: bool = False  # a gateway's: requests may say which routes they take
    created: int = field(default_factory=lambda: int(time.time()))  # seconds since 1970

    @property
    def entry(self) -> ModelEntry:
        """What lists of models tell of it."""
        model = self.provider.model
        return ModelEntry(
            id=self.id,
            name=model.name,
            created=self.created,
            owner=self.owner,
            context_length=model.context_length,
            max_tokens=model.context_length,
            description=model.note,
            aliases=self.aliases,
            has_images="images" in model.abilities,
            has_tools="tools" in model.abilities,
            has_reasoning="reasoning" in model.abilities,
            default_temperature=model.temperatures.get("none"),
        )


def routed_offers(models: "Iterable[RoutedModel]", tokenizer: Tokenizes | None = None) -> list[Offer]:
    """A gateway's models; the tokenizer is of the one that is loaded here, which comes first."""
    ordered = sorted(models, key=lambda model: not model.is_local)
    return [
        Offer(
            id=model.id,
            provider=model.gateway,
            aliases=model.aliases,
            tokenizer=tokenizer if model.is_local else None,
            owner="local" if model.is_local else "gateway",
            is_routed=True,
        )
        for model in ordered
    ]


class Models:
    """Finds the offer that a name means."""

    def __init__(self, offers: Sequence[Offer]) -> None:
        if not offers:
            raise ConfigError("no model to serve; give at least one")
        self.offers = tuple(offers)
        self._by_name: dict[str, Offer] = {}
        for offer in offers:
            for name in (offer.id, *offer.aliases):
                if self._by_name.setdefault(name, offer) is not offer:
                    raise ConfigError(f"two models are served as {name}; rename one")

    def find(self, name: str) -> Offer:
        """The model of that id or alias; Google's clients put `models/` before it."""
        offer = self._find(name) or self._find(name.removeprefix("models/"))
        if offer is None:
            served = ", ".join(offer.id for offer in self.offers[:MAX_NAMED])
            raise UnknownModelError(f"the model {name[:100]!r} is not served here; there is {served}")
        return offer

    def _find(self, name: str) -> Offer | None:
        offer = self._by_name.get(name)
        if offer is None and ":" in name:
            offer = self._by_name.get(split_variant(name)[0])
            return offer if offer is not None and offer.is_routed else None
        return offer

    @property
    def entries(self) -> list[ModelEntry]:
        return [offer.entry for offer in self.offers]
