"""Text to token ids and back: one Tekken v15 vocabulary, loaded from its `tekken.json`."""

import json
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from mistral_common.tokens.tokenizers.base import SpecialTokenPolicy, TokenizerVersion
from mistral_common.tokens.tokenizers.image import ImageConfig
from mistral_common.tokens.tokenizers.model_settings_builder import ModelSettingsBuilder
from mistral_common.tokens.tokenizers.tekken import Tekkenizer

from small4.errors import CheckpointError, CheckpointNotFoundError, RequestError, UnsupportedModelError
from small4.tokenizer.images import ImageGrid

MAX_FILE_BYTES = 64 * 2**20  # the release's file has 19 MB
MAX_WHITESPACE_RUN = 500_000  # characters; the splitting pattern overflows its stack at twice that

_VERSION = "v15"
# Capitals then small letters, with one sign before; single digits; signs with line ends after; line ends; blanks.
# Another pattern would be another tokenizer, or a trap: it runs on every text that users send.
_PATTERN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_MAX_CACHED_TEXTS = 256
_MAX_CACHED_CHARACTERS = 16_384  # longer texts would make the cache large
_ROLES = {
    "bos": "<s>",
    "eos": "</s>",
    "inst": "[INST]",
    "end_inst": "[/INST]",
    "tools": "[AVAILABLE_TOOLS]",
    "end_tools": "[/AVAILABLE_TOOLS]",
    "tool_results": "[TOOL_RESULTS]",
    "end_tool_results": "[/TOOL_RESULTS]",
    "tool_calls": "[TOOL_CALLS]",
    "system": "[SYSTEM_PROMPT]",
    "end_system": "[/SYSTEM_PROMPT]",
    "args": "[ARGS]",
    "think": "[THINK]",
    "end_think": "[/THINK]",
    "settings": "[MODEL_SETTINGS]",
    "end_settings": "[/MODEL_SETTINGS]",
    "image": "[IMG]",
    "image_break": "[IMG_BREAK]",
    "image_end": "[IMG_END]",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlIds:
    """Ids of the tokens that give a conversation its layout, as this vocabulary numbers them."""

    bos: int
    eos: int
    inst: int
    end_inst: int
    tools: int
    end_tools: int
    tool_results: int
    end_tool_results: int
    tool_calls: int
    system: int
    end_system: int
    args: int
    think: int
    end_think: int
    settings: int
    end_settings: int
    image: int
    image_break: int
    image_end: int


class Tokenizer:
    """One vocabulary. Text never becomes a control id, whatever it spells; only `template` places those."""

    def __init__(self, tekken: Tekkenizer) -> None:
        self._tekken = tekken
        self._encoding = tekken._model  # Tekkenizer.encode builds two lists where one will do
        self.vocab_size: int = tekken.n_words
        self.num_special_tokens: int = tekken.num_special_tokens
        self.control = ControlIds(**{role: tekken.get_special_token(name) for role, name in _ROLES.items()})
        self.efforts: tuple[str, ...] = _allowed_efforts(tekken)
        self.image_grid: ImageGrid | None = _image_grid(tekken)
        self._bytes: dict[int, bytes] = {}  # of the tokens that were asked for: every token of an answer is
        self._encode_cached = lru_cache(maxsize=_MAX_CACHED_TEXTS)(self.encode_text)

    @classmethod
    def from_file(cls, path: Path) -> "Tokenizer":
        """Loads a `tekken.json`; every way in which it can be wrong is a `CheckpointError`."""
        return cls.from_content(_read(path), path.name)

    @classmethod
    def from_content(cls, content: dict[str, Any], name: str) -> "Tokenizer":
        """As `from_file`, of a file's parsed content; `name` is for errors."""
        try:
            return cls(_build(content))
        except CheckpointError:
            raise
        except Exception as error:  # the library asserts and indexes its way through the content
            raise CheckpointError(
                f"{name} is not a usable Tekken tokenizer ({type(error).__name__}); fetch the file again"
            ) from error

    def encode_text(self, text: str) -> list[int]:
        """Ids of plain text; `decode` gives the text back."""
        _check_whitespace(text)
        offset = self.num_special_tokens
        return [rank + offset for rank in self._encoding.encode_ordinary(text)]

    def encode_repeated(self, text: str) -> list[int]:
        """As `encode_text`, for settings, tool lists and system prompts, which come again. Do not change the list."""
        return self._encode_cached(text) if len(text) <= _MAX_CACHED_CHARACTERS else self.encode_text(text)

    def decode(self, token_ids: list[int]) -> str:
        """Text of ids, control tokens by their names; bytes that are no UTF-8 become U+FFFD."""
        self._check_ids(token_ids)
        return str(self._tekken.decode(list(token_ids), special_token_policy=SpecialTokenPolicy.KEEP))

    def token_bytes(self, token_id: int) -> bytes:
        """Bytes of one piece, often not a whole character; none for a control token."""
        data = self._bytes.get(token_id)
        if data is None:
            self._check_ids([token_id])
            data = self._bytes[token_id] = bytes(self._tekken.id_to_byte_piece(token_id, SpecialTokenPolicy.IGNORE))
        return data

    def special_id(self, name: str) -> int:
        """Id of the control token with this name, such as `[THINK]`."""
        try:
            return int(self._tekken.get_special_token(name))
        except ValueError as error:
            raise RequestError(f"this vocabulary has no control token {name!r}; see tekken.json") from error

    def _check_ids(self, token_ids: list[int]) -> None:
        for token_id in token_ids:
            if not 0 <= token_id < self.vocab_size:
                raise RequestError(f"token id {token_id} is outside the vocabulary of {self.vocab_size}")


def _read(path: Path) -> dict[str, Any]:
    """Content of the file, if it is JSON of the version that small4 knows."""
    if not path.is_file():
        raise CheckpointNotFoundError(f"no tokenizer file {path}; a model directory needs its tekken.json")
    size_bytes = path.stat().st_size
    if size_bytes > MAX_FILE_BYTES:
        raise CheckpointError(f"{path.name} has {size_bytes} bytes, the limit is {MAX_FILE_BYTES}; fetch it again")
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path.name} is not JSON; it may be cut short, fetch the file again") from error
    config = content.get("config") if isinstance(content, dict) else None
    config = config if isinstance(config, dict) else {}
    version = config.get("version")
    if version != _VERSION:
        raise UnsupportedModelError(f"{path.name} is Tekken version {version!r}; small4 reads version {_VERSION!r}")
    if config.get("pattern") != _PATTERN:
        raise UnsupportedModelError(f"{path.name} splits text by another pattern than Tekken's; fetch the file again")
    return dict(content)


def _build(content: dict[str, Any]) -> Tekkenizer:
    """As `Tekkenizer.from_file`, but from what is already parsed: the release's file takes half a second to parse."""
    config, image = content["config"], content.get("image")
    tekken = Tekkenizer(
        vocab=content["vocab"],
        special_tokens=content["special_tokens"],
        pattern=config["pattern"],
        vocab_size=config["default_vocab_size"],
        num_special_tokens=config["default_num_special_tokens"],
        version=TokenizerVersion(config["version"]),
        image_config=None if image is None else ImageConfig(**image),
        model_settings_builder=ModelSettingsBuilder.model_validate(content["model_settings_builder"]),
    )
    if b"" in tekken._tekken_token2id_nospecial:  # what the library makes of a token that is no base64
        raise CheckpointError("the vocabulary has a token without bytes; fetch the file again")
    return tekken


def _allowed_efforts(tekken: Tekkenizer) -> tuple[str, ...]:
    builder = tekken.model_settings_builder
    if builder is None or builder.reasoning_effort is None:
        raise UnsupportedModelError("this tokenizer file has no reasoning efforts (model_settings_builder)")
    return tuple(str(effort) for effort in builder.reasoning_effort.values)


def _image_grid(tekken: Tekkenizer) -> ImageGrid | None:
    image = tekken.image
    if image is None:
        return None
    return ImageGrid(
        patch_size=image.image_patch_size,
        max_image_size=image.max_image_size,
        spatial_merge_size=image.spatial_merge_size,
    )


def _check_whitespace(text: str) -> None:
    if len(text) <= MAX_WHITESPACE_RUN:
        return
    longest = max((match.end() - match.start() for match in re.finditer(r"\s+", text)), default=0)
    if longest > MAX_WHITESPACE_RUN:
        raise RequestError(
            f"the text has {longest} blanks in a row, the limit is {MAX_WHITESPACE_RUN}; shorten that stretch"
        )
