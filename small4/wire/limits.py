"""What a request may hold, whatever its dialect: types that its structs are made of, and checks by path.

The ranges of sampling are those of `engine/sampling_rules.py`, and a test keeps it so.
"""

from collections.abc import Mapping, Sized
from typing import Annotated

from msgspec import Meta

from small4.chat import MAX_ANSWERS
from small4.errors import FieldError

MAX_MESSAGES = 1024
MAX_PARTS = 256  # of one message
MAX_TOOLS = 128  # to choose from, and in one message
MAX_STOPS = 16
MAX_STOP_CHARACTERS = 256
MAX_BIASED_IDS = 1024
MAX_METADATA = 16  # pairs

Count = Annotated[int, Meta(ge=0, le=2**31 - 1)]
PositiveCount = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Temperature = Annotated[float, Meta(ge=0, le=5)]
TopP = Annotated[float, Meta(gt=0, le=1)]
MinP = Annotated[float, Meta(ge=0, le=1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]  # presence, frequency
RepetitionPenalty = Annotated[float, Meta(ge=0.1, le=10)]
Seed = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]  # see `seed_of`
NumAnswers = Annotated[int, Meta(ge=1, le=MAX_ANSWERS)]
TopLogprobs = Annotated[int, Meta(ge=0, le=20)]
ModelName = Annotated[str, Meta(min_length=1, max_length=256)]
StopText = Annotated[str, Meta(min_length=1, max_length=MAX_STOP_CHARACTERS)]
StopTexts = Annotated[list[StopText], Meta(max_length=MAX_STOPS)]

_MAX_METADATA_NAME = 64  # characters, as OpenAI
_MAX_METADATA_VALUE = 512


def check_length(values: Sized, limit: int, param: str) -> None:
    """Raises if a list of the request has too many entries."""
    if len(values) > limit:
        raise FieldError(f"{param} has {len(values)} entries, the limit is {limit}; send fewer", param)


def seed_of(seed: int | None) -> int | None:
    """A seed of any sign as the engine takes it: negative ones wrap around at 2**63."""
    return None if seed is None else seed % 2**63


def bias_of(bias: Mapping[str, float], param: str) -> tuple[tuple[int, float], ...]:
    """Token ids with what is added to their scores; `bias` has the ids as JSON object names."""
    check_length(bias, MAX_BIASED_IDS, param)
    pairs: dict[int, float] = {}
    for name, value in bias.items():
        if not (name.isascii() and name.isdigit() and len(name) <= 10):
            raise FieldError(f"{param}: {name[:40]!r} is no token id; names are whole numbers from 0", param)
        if not -100.0 <= value <= 100.0:
            raise FieldError(f"{param}: the value of token {name} is {value:g}; it must be from -100 to 100", param)
        if int(name) in pairs:
            raise FieldError(f"{param} names the token {int(name)} twice; give every token one value", param)
        pairs[int(name)] = value
    return tuple(pairs.items())


def check_metadata(metadata: Mapping[str, str], param: str) -> None:
    """Raises if the pairs that a caller wants echoed are too many or too long."""
    check_length(metadata, MAX_METADATA, param)
    for name, value in metadata.items():
        if len(name) > _MAX_METADATA_NAME or len(value) > _MAX_METADATA_VALUE:
            raise FieldError(
                f"{param}: names have up to {_MAX_METADATA_NAME} characters and values up to {_MAX_METADATA_VALUE}; "
                f"{name[:_MAX_METADATA_NAME]!r} has more",
                param,
            )
