"""OpenRouter's `provider` object: which routes a request may take, and in what order. Ours are the last five fields.

An unknown field is refused here, unlike elsewhere: a misspelt wish about data must not be taken for none.
"""

from decimal import Decimal
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from small4.wire.decode import convert

Slugs = Annotated[list[Annotated[str, Meta(min_length=1, max_length=128)]], Meta(max_length=64)]
Quantization = Literal[
    "int4", "int8", "fp4", "mxfp4", "nvfp4", "fp6", "fp8", "mxfp8", "fp16", "bf16", "fp32", "unknown"
]
Metric = Literal["price", "throughput", "latency", "uptime"]
Speed = Annotated[float, Meta(ge=0, le=1e9)]
Region = Annotated[str, Meta(pattern="^([A-Za-z]{2}|[Hh][Ee][Rr][Ee])$")]
MAX_CAP_USD = 1_000_000


class PriceCapFields(Struct, forbid_unknown_fields=True):
    """Of prompt and completion per million tokens, of the others per piece; all in USD."""

    prompt: Decimal | None = None
    completion: Decimal | None = None
    request: Decimal | None = None
    image: Decimal | None = None
    audio: Decimal | None = None

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            cap = getattr(self, name)
            if cap is not None and not (cap.is_finite() and 0 <= cap <= MAX_CAP_USD):
                raise ValueError(f"{name} must be from 0 to {MAX_CAP_USD} USD")


class PercentileFields(Struct, forbid_unknown_fields=True):
    p50: Speed | None = None
    p75: Speed | None = None
    p90: Speed | None = None
    p99: Speed | None = None


class SortFields(Struct, forbid_unknown_fields=True):
    """`by` a metric, or ours: `blend` gives each a weight."""

    by: Metric | None = None
    partition: Literal["model", "none"] | None = None
    blend: dict[Metric, Speed] | None = None


class ProviderFields(Struct, forbid_unknown_fields=True, kw_only=True):
    order: Slugs | None = None
    only: Slugs | None = None
    ignore: Slugs | None = None
    allow_fallbacks: bool | None = None
    require_parameters: bool | None = None
    data_collection: Literal["allow", "deny"] | None = None
    zdr: bool | None = None
    quantizations: Annotated[list[Quantization], Meta(max_length=16)] | None = None
    sort: Metric | SortFields | None = None
    preferred_min_throughput: Speed | PercentileFields | None = None  # tokens per second
    preferred_max_latency: Speed | PercentileFields | None = None  # seconds to the first token
    max_price: PriceCapFields | None = None
    enforce_distillable_text: bool | None = None
    regions: Annotated[list[Region], Meta(max_length=64)] | None = None  # EU, two letters of a country, or HERE
    training: Literal["allow", "deny"] | None = None
    max_retention_days: Annotated[int, Meta(ge=0, le=36_500)] | None = None
    local_only: bool | None = None
    max_posture_age_days: Annotated[int, Meta(ge=0, le=36_500)] | None = None


def parse_provider(fields: Any, path: str = "provider") -> ProviderFields:
    """The object as a request or a policy file has it; a `FieldError` names what is wrong."""
    return ProviderFields() if fields is None else convert(fields, ProviderFields, path)
