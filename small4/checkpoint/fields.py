"""Reads typed values out of a foreign JSON object, with messages that name the file, the key and what was wrong."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from small4.errors import ConfigError, UnsupportedModelError

MAX_CONFIG_BYTES = 1024 * 1024


def read_json(path: Path, max_bytes: int = MAX_CONFIG_BYTES) -> dict[str, Any]:
    """The object in a JSON file of bounded size."""
    try:
        with path.open("rb") as file:
            raw = file.read(max_bytes + 1)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from error
    if len(raw) > max_bytes:
        raise ConfigError(f"{path} has over {max_bytes} bytes; that is no such file of a checkpoint")
    try:
        value = json.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not valid JSON: fetch it again") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{path} holds no JSON object: fetch it again")
    return value


@dataclass(frozen=True, slots=True)
class Fields:
    """A JSON object and where it was found. A default of None makes a field obligatory."""

    raw: Mapping[str, Any]
    where: str

    def integer(self, key: str, default: int | None) -> int:
        value = self._get(key, default)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if type(value) is not int:
            raise self._wrong(key, value, "an integer")
        return value

    def number(self, key: str, default: float | None) -> float:
        value = self._get(key, default)
        if type(value) not in (int, float) or not math.isfinite(value):
            raise self._wrong(key, value, "a finite number")
        return float(value)

    def flag(self, key: str, default: bool | None) -> bool:
        value = self._get(key, default)
        if type(value) is not bool:
            raise self._wrong(key, value, "true or false")
        return value

    def section(self, key: str) -> "Fields | None":
        value = self.raw.get(key)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self._wrong(key, value, "an object")
        return Fields(value, f"{self.where}: {key}")

    def expect(self, key: str, wanted: object, *, default: object) -> None:
        """Refuse a value that this architecture has no code for."""
        value = self.raw.get(key)
        value = default if value is None else value
        if value != wanted:
            raise UnsupportedModelError(f"{self.where} has {key} = {_shown(value)}; small4 runs {wanted!r} only")

    def _get(self, key: str, default: object) -> Any:
        value = self.raw.get(key)
        if value is None and default is None:
            raise ConfigError(f"{self.where} has no {key}; it is needed to build the model")
        return default if value is None else value

    def _wrong(self, key: str, value: object, wanted: str) -> ConfigError:
        return ConfigError(f"{self.where} has {key} = {_shown(value)}; it must be {wanted}")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
