"""Gateway keys: what opens this server. Only digests are kept, in two files that their owner alone may read.

A key is `s4_` ID `_` SECRET CHECK: 12 hexadecimal digits that name it in listings, 256 random bits in base 32, and a
CRC-32 of all before, so that a mistyped key is told apart from an unknown one, and a leaked one can be recognised.
At rest lies an HMAC-SHA-256 of the key under the instance's own secret. At 256 bits there is nothing to guess, so no
slow hash is needed. From the same secret come the salts that keep the callers' prefix caches apart.
"""

import base64
import hashlib
import hmac
import json
import secrets
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from small4.errors import AuthenticationError, ConfigError
from small4.gateway.private_files import locked, make_private, secret_in, write_private

Scope = Literal["inference", "batch", "metrics", "admin"]
SCOPES: tuple[Scope, ...] = ("inference", "batch", "metrics", "admin")
DEFAULT_SCOPES: frozenset[Scope] = frozenset({"inference", "batch"})

PREFIX = "s4"
MAX_KEYS = 10_000
MAX_NAME = 64  # characters

BAD_KEY = "this key opens nothing here; check it, or make one with `small4 keys`"


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayKey:
    """A key as it is kept: everything but the key."""

    id: str
    name: str
    digest: str
    scopes: frozenset[Scope]
    created: float  # seconds since 1970, as all times here
    expires: float | None = None
    revoked: float | None = None


@dataclass(frozen=True, slots=True)
class Identity:
    """Who calls: the key's id and scopes, and the salt of everything that is cached for them."""

    id: str
    name: str
    scopes: frozenset[Scope]
    salt: str = field(repr=False)


class KeyStore:
    """The keys of one state directory. Any process may change them; a server sees it with the next request."""

    def __init__(self, directory: Path, clock: Callable[[], float] = time.time) -> None:
        self.directory = directory
        self._file = directory / "gateway-keys.json"
        self._secret_file = directory / "gateway-secret"
        self._clock = clock
        self._seen: tuple[int, int, int] | None = None  # the file's inode, size and time of change when it was read
        self._keys: dict[str, GatewayKey] = {}
        self._secret: bytes | None = None

    def create(
        self, name: str, scopes: frozenset[Scope] = DEFAULT_SCOPES, lifetime_seconds: float | None = None
    ) -> tuple[str, GatewayKey]:
        """A new key, which is shown this once, and what is kept of it."""
        _check_name(name)
        check_scopes(scopes)
        if lifetime_seconds is not None and not lifetime_seconds > 0:
            raise ConfigError(f"the lifetime is {lifetime_seconds} seconds; it must be more than 0")
        with self._changing() as keys:
            if len(keys) >= MAX_KEYS:
                raise ConfigError(f"there are {MAX_KEYS} keys, the limit; remove some")
            text = _new_key()
            now = self._clock()
            expires = None if lifetime_seconds is None else now + lifetime_seconds
            key = GatewayKey(
                id=_id_of(text), name=name, digest=self._digest(text), scopes=scopes, created=now, expires=expires
            )
            keys[key.id] = key
        return text, key

    def all_keys(self) -> list[GatewayKey]:
        """All keys, the oldest first, revoked and expired ones too."""
        return sorted(self._current().values(), key=lambda key: key.created)

    def revoke(self, key_id: str) -> GatewayKey:
        """Close a key for good."""
        with self._changing() as keys:
            if key_id not in keys:
                raise ConfigError(f"there is no key {key_id}; `small4 keys` lists their ids")
            if keys[key_id].revoked is None:
                keys[key_id] = replace(keys[key_id], revoked=self._clock())
            return keys[key_id]

    def exists(self) -> bool:
        """Whether a key was ever made: from then on nobody comes in without one."""
        return bool(self._current())

    def identify(self, text: str) -> Identity:
        """Whose key this is; raises `AuthenticationError` for one that is malformed, unknown, revoked or expired."""
        key = self._current().get(_id_of(text)) if _is_well_formed(text) else None
        # Without such a key the same work is done, so that the time tells nothing about ids.
        expected = key.digest if key is not None else "0" * 64
        is_equal = hmac.compare_digest(self._digest(text), expected)
        if key is None or not is_equal or key.revoked is not None:
            raise AuthenticationError(BAD_KEY)
        if key.expires is not None and key.expires <= self._clock():
            raise AuthenticationError("this key has expired; make another with `small4 keys`")
        return Identity(key.id, key.name, key.scopes, self.salt(key.id))

    def identity(self, key_id: str) -> Identity:
        """Whose key this id names, as long as the key is open; for work that goes on after its request was answered."""
        key = self._current().get(key_id)
        is_open = key is not None and key.revoked is None and (key.expires is None or key.expires > self._clock())
        if key is None or not is_open:
            raise AuthenticationError("the key of this work was revoked, or has expired")
        return Identity(key.id, key.name, key.scopes, self.salt(key.id))

    def salt(self, key_id: str) -> str:
        """What keeps a caller's cached prefixes from everybody else's; no client can choose or learn it."""
        return hmac.new(self.secret(), b"prefix cache\0" + key_id.encode(), hashlib.sha256).hexdigest()[:32]

    def secret(self) -> bytes:
        """32 bytes that belong to this instance; every use derives its own from them."""
        if self._secret is None:
            way_out = "put it back, or remove it and gateway-keys.json and make new keys"
            self._secret = secret_in(self._secret_file, way_out)
        return self._secret

    def _digest(self, text: str) -> str:
        return hmac.new(self.secret(), b"gateway key\0" + text.encode(), hashlib.sha256).hexdigest()

    def _current(self) -> dict[str, GatewayKey]:
        try:
            found = self._file.stat()
        except FileNotFoundError:
            self._seen, self._keys = None, {}
            return self._keys
        seen = (found.st_ino, found.st_size, found.st_mtime_ns)
        if seen != self._seen:
            self._keys = _read_keys(self._file)
            self._seen = seen
        return self._keys

    @contextmanager
    def _changing(self) -> Iterator[dict[str, GatewayKey]]:
        """The keys to change; they are written in one step on leaving, with every other program kept out."""
        make_private(self._file.parent)
        with locked(self._file.with_suffix(".lock")):
            keys = dict(self._current())
            yield keys
            listing = {"version": 1, "keys": [_as_json(key) for key in keys.values()]}
            write_private(self._file, json.dumps(listing, indent=1).encode())


def check_scopes(scopes: frozenset[Scope]) -> None:
    """Raises unless these are scopes, and at least one."""
    unknown = sorted(set(scopes) - set(SCOPES))
    if unknown or not scopes:
        raise ConfigError(f"unknown scope {unknown[0]!r}" if unknown else f"choose scopes among {', '.join(SCOPES)}")


def _check_name(name: str) -> None:
    if not 0 < len(name) <= MAX_NAME or not name.isprintable():
        raise ConfigError(f"a key's name is 1 to {MAX_NAME} printable characters")


def _new_key() -> str:
    secret = base64.b32encode(secrets.token_bytes(32)).decode().rstrip("=").lower()
    return _with_check(f"{PREFIX}_{secrets.token_hex(6)}_{secret}")


def _with_check(text: str) -> str:
    return f"{text}{zlib.crc32(text.encode()):08x}"


def _is_well_formed(text: str) -> bool:
    is_shaped = len(text) == 76 and text.isascii() and text.startswith(f"{PREFIX}_") and text[15] == "_"
    return is_shaped and _with_check(text[:-8]) == text


def _id_of(text: str) -> str:
    return text[3:15]


def _read_keys(file: Path) -> dict[str, GatewayKey]:
    try:
        listing = json.loads(file.read_text(encoding="utf-8"))
        keys = [_from_json(entry) for entry in listing["keys"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        # Nobody is let in rather than everybody.
        raise ConfigError(f"{file} cannot be read as keys; put it back from a copy, or remove it") from error
    return {key.id: key for key in keys}


def _as_json(key: GatewayKey) -> dict[str, Any]:
    return {
        "id": key.id,
        "name": key.name,
        "digest": key.digest,
        "scopes": sorted(key.scopes),
        "created": key.created,
        "expires": key.expires,
        "revoked": key.revoked,
    }


def _from_json(entry: dict[str, Any]) -> GatewayKey:
    known = frozenset(scope for scope in SCOPES if scope in entry["scopes"])
    return GatewayKey(**{**entry, "scopes": known})
