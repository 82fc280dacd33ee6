"""What the user typed, as a chat request: effort, budget, images and text, each checked with the way out."""

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from small4.chat import EFFORTS, MAX_ANSWERS, Effort, ImagePart, Message, TextPart
from small4.cli.drawing import Drawing
from small4.errors import ConfigError, EffortError, ImageError, RequestError, SamplingError


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What the options of `run` and `chat` ask for, checked as far as that goes without a model."""

    effort: Effort | None
    system: str | None
    images: tuple[ImagePart, ...]
    budget: int | None
    max_tokens: int | None
    drawing: Drawing


def check_wishes(
    *,
    effort: str | None,
    system: str | None,
    images: Sequence[Path] | None,
    budget: int | None,
    max_tokens: int | None,
    drawing: Drawing,
) -> Wishes:
    """Refuse at once what no model would take: loading one may take minutes."""
    return Wishes(
        effort=None if effort is None else parse_effort(effort),
        system=None if system is None else check_text(system),
        images=tuple(read_image(path) for path in images or ()),
        budget=check_budget(budget),
        max_tokens=check_max_tokens(max_tokens),
        drawing=drawing,
    )


def parse_effort(text: str) -> Effort:
    """`none` or `high`."""
    for effort in EFFORTS:
        if text == effort:
            return effort
    raise EffortError(f"unknown effort {text!r}; there are {' and '.join(EFFORTS)}")


def parse_budget(text: str) -> int | None:
    """A number of tokens, or `off`."""
    if text == "off":
        return None
    try:
        return check_budget(int(text))
    except ValueError as error:
        raise SamplingError(f"the thinking budget is a number of tokens or off, not {text!r}") from error


def check_budget(budget: int | None) -> int | None:
    """At least 0; None is no budget."""
    if budget is not None and budget < 0:
        raise SamplingError(f"the thinking budget is {budget}; it must be at least 0 tokens, or left out for none")
    return budget


def parse_quant(word: str | None) -> Literal["int8", "int4"] | None:
    """How weights are packed; None is not at all."""
    if word is None:
        return None
    if word == "int8":
        return "int8"
    if word == "int4":
        return "int4"
    raise ConfigError(f"--quant is int8 or int4, not {word[:40]!r}; leave it out for the weights as they are stored")


def parse_size(text: str | None) -> int | None:
    """Bytes of a size such as 512M or 1.5G, in powers of 1024; None is left out."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d{1,12}(?:\.\d{1,3})?)\s*([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if found is None:
        raise ConfigError(f"a size is a number with K, M, G or T behind it, as 512M or 4G, not {text[:40]!r}")
    return int(float(found[1]) * 1024 ** ("KMGT".index(found[2].upper()) + 1)) if found[2] else int(float(found[1]))


def check_num_answers(num_answers: int) -> None:
    """At least 1, and no more than one request may have."""
    if not 1 <= num_answers <= MAX_ANSWERS:
        raise SamplingError(f"-n is {num_answers}; there may be 1 to {MAX_ANSWERS} answers")


def check_max_tokens(max_tokens: int | None) -> int | None:
    """At least 1; None is what the context leaves."""
    if max_tokens is not None and max_tokens < 1:
        raise SamplingError(f"max tokens is {max_tokens}; it must be at least 1, or left out for all that fits")
    return max_tokens


def read_image(path: Path) -> ImagePart:
    """The image file as it is, once it has proved to be one that can be decoded."""
    from small4.tokenizer.images import MAX_FILE_BYTES, decode_image

    if str(path).startswith(("http:", "https:")):
        raise ImageError(f"{path} is an address; images are given by path, so download it first")
    path = path.expanduser()
    if not path.exists():
        raise ImageError(f"there is no image at {path}; check the path")
    if not path.is_file():
        raise ImageError(f"{path} is not a file; give the path of one image")
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        raise ImageError(f"{path} has {size} bytes, the limit is {MAX_FILE_BYTES}; send a smaller file")
    data = path.read_bytes()
    try:
        decode_image(data)
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from error
    return ImagePart(data)


def user_message(text: str, images: tuple[ImagePart, ...] = ()) -> Message:
    """A question: its text, then its images."""
    check_text(text)
    if not images:
        return Message("user", text)
    return Message("user", (*((TextPart(text),) if text else ()), *images))


def check_text(text: str) -> str:
    """Text that can be encoded; bytes of another encoding arrive from a terminal as lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RequestError(f"the text is not valid UTF-8 at character {error.start}; convert it first") from error
    return text


def read_standard_input() -> str:
    """All of standard input as text."""
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise RequestError(
            f"standard input is not UTF-8 text at byte {error.start}; convert it first (images are given by -a)"
        ) from error
