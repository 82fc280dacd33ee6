"""Routes made up for tests of routing."""

from decimal import Decimal

from small4.catalog.card import Address
from small4.catalog.price import Prices, Rates, Tier
from small4.catalog.route import LOCAL_POSTURE, Posture, Route


def route(name, *, prompt="1", output="2", posture=None, dialect="openai", is_local=False, **more) -> Route:
    address = Address(
        name=name,
        provider=name,
        model_id="m",
        dialect=None if is_local else dialect,
        base_url=None if is_local else f"https://{name.replace('/', '.')}.example/v1",
        key_variable=None,
    )
    rates = Rates(
        prompt=None if prompt is None else Decimal(prompt), output=None if output is None else Decimal(output)
    )
    return Route(
        address=address,
        model="m",
        prices=Prices(tiers=(Tier(standard=rates),)),
        posture=LOCAL_POSTURE if is_local else posture or Posture(),
        **more,
    )
