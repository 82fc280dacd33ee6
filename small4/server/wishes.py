"""Which routes a request may take, as its caller says it; for models behind a gateway."""

from msgspec.structs import replace

from small4.gateway.policy import split_variant
from small4.wire.call import Call
from small4.wire.routing_fields import ProviderFields, parse_provider


def wishes_of(call: Call) -> ProviderFields | None:
    """What a request says of routes: OpenRouter's `provider` object, and its suffixes of model names."""
    _, by_suffix = split_variant(call.model)
    if call.provider is None and not by_suffix.weights:
        return None
    fields = parse_provider(call.provider)
    return fields if fields.sort is not None else replace(fields, sort=next(iter(by_suffix.weights), None))
