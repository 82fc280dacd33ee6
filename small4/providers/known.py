"""Providers that are known by name: where each is, what it speaks, the variable of its key, and Small 4's id there."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from small4.providers.endpoint import Dialect, Endpoint, endpoint_at

SMALL4_WORDS = ("mistral-small-4", "mistral-small-2603")  # in every id that it has anywhere


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownProvider:
    """A provider that needs no URL to be used."""

    endpoint: Endpoint
    variable: str  # of the environment, in which its users have their key
    model_id: str | None  # Small 4's; None: its list of models tells
    key_path: str | None = None  # that answers for a key, where the list of models is open to all


def small4_among(model_ids: Iterable[str]) -> str | None:
    """The id that Small 4 has in a list of models."""
    found = [model_id for model_id in model_ids if any(word in model_id.lower() for word in SMALL4_WORDS)]
    return min(found, key=len, default=None)


def _known(
    name: str,
    base_url: str,
    variable: str,
    model_id: str | None,
    dialect: Dialect = "openai",
    key_path: str | None = None,
) -> KnownProvider:
    endpoint = endpoint_at(base_url, name=name, dialect=dialect)
    return KnownProvider(endpoint=endpoint, variable=variable, model_id=model_id, key_path=key_path)


_TABLE = (
    _known("mistral", "https://api.mistral.ai/v1", "MISTRAL_API_KEY", "mistral-small-2603", "mistral"),
    _known(
        "openrouter",
        "https://openrouter.ai/api/v1",
        "OPENROUTER_API_KEY",
        "mistralai/mistral-small-2603",
        key_path="/key",
    ),
    _known("venice", "https://api.venice.ai/api/v1", "VENICE_API_KEY", None),
    _known("regolo", "https://api.regolo.ai/v1", "REGOLO_API_KEY", "mistral-small-4-119b"),
    _known("nvidia", "https://integrate.api.nvidia.com/v1", "NVIDIA_API_KEY", "mistralai/mistral-small-4-119b-2603"),
    _known("opper", "https://api.opper.ai/v3/compat", "OPPER_API_KEY", "mistral/mistral-small-2603"),
)
KNOWN: Mapping[str, KnownProvider] = {known.endpoint.name: known for known in _TABLE}
