"""A hosted provider's model in the place of one of this machine, for `run` and `chat`."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from small4.errors import ConfigError

if TYPE_CHECKING:
    from small4.hosted import Hosted


def check_route(route: str | None, dialect: str | None, local: Mapping[str, object]) -> None:
    """Raises where an option has no meaning: those for a model of this machine with a route, and the reverse."""
    given = next((name for name, value in local.items() if value), None)
    if route is not None and given is not None:
        raise ConfigError(f"{given} is for a model of this machine; leave it out, or leave out --route")
    if route is None and dialect is not None:
        raise ConfigError("--dialect says what the server behind --route speaks; give its URL there")


def hosted_speaker(route: str, model: str | None, dialect: str | None) -> "Hosted":
    """A provider's model; the one that is named, or Small 4 as it is called there."""
    from small4.cli.provider_keys import dialect_of, provider_keys
    from small4.hosted import Hosted

    return Hosted(route, model, dialect=dialect_of(dialect), keys=provider_keys())
