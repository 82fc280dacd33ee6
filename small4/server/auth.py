"""Who may call: middleware below every dialect, which denies whatever it was not told to let in.

Once a key exists, every request needs one but those for the open paths. Until then only this machine may call. The
scope that a path needs comes from the table of paths; a path that no table holds needs a key too, and then is a 404.
"""

import hmac
from collections.abc import Callable
from ipaddress import ip_address
from typing import Literal
from urllib.parse import parse_qsl

from starlette.types import ASGIApp, Receive, Scope, Send

from small4.errors import AuthenticationError, ForbiddenError
from small4.server import keys
from small4.server.door import Access
from small4.server.exchange import exchange_of
from small4.server.keys import SCOPES, Identity, KeyStore
from small4.server.refusal import Refusal

Needs = Literal["open", "any"] | keys.Scope  # nothing; some key; a key with that scope

LOCAL = "local"  # the name of whoever calls from this machine while no key exists
MAX_QUERY_FIELDS = 64


class Auth:
    """ASGI middleware: puts the caller's `Identity` into the scope, or raises."""

    def __init__(self, app: ASGIApp, store: KeyStore, access: Access, needs: Callable[[Scope], Needs]) -> None:
        self.app, self.store, self.access, self.needs = app, store, access, needs

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            needed = self.needs(scope)
            if needed != "open":  # whose headers are nobody's business: a load balancer may send its own
                key = extract_key(scope, accepts_query=self.access.accepts_key_in_query)
                identity = scope["identity"] = self._identify(scope, key, needed)
                exchange_of(scope).key_id = identity.id
        await self.app(scope, receive, send)

    def _identify(self, scope: Scope, key: str | None, needed: Needs) -> Identity:
        if not self.store.exists() and not self.access.needs_key_when_none_exists:
            return self._local(scope)
        if key is None:
            raise AuthenticationError("a key is needed: Authorization: Bearer, x-api-key, x-goog-api-key, or ?key=")
        identity = self.store.identify(key)
        if needed != "any" and needed not in identity.scopes:
            raise ForbiddenError(f"this key does not have the scope {needed}")
        return identity

    def _local(self, scope: Scope) -> Identity:
        client = scope.get("client")
        if client is None or not ip_address(client[0]).is_loopback:
            raise ForbiddenError("only this machine may call while no key exists; make one with `small4 keys`")
        return local_identity(self.store)


def local_identity(store: KeyStore) -> Identity:
    """Whoever calls from this machine while no key exists."""
    return Identity(LOCAL, LOCAL, frozenset(SCOPES), store.salt(LOCAL))


def extract_key(scope: Scope, *, accepts_query: bool) -> str | None:
    """The key that a request carries, in whichever of the four places; two different ones are refused."""
    found = [_decoded(name, value) for name, value in scope["headers"] if name in _CARRIERS]
    if accepts_query and b"key=" in scope["query_string"]:
        fields = _query_fields(scope["query_string"])
        found += [value for name, value in fields if name == "key"]
    found = [key for key in found if key]
    if not found:
        return None
    if any(not hmac.compare_digest(key.encode(), found[0].encode()) for key in found[1:]):
        raise Refusal(400, "invalid", "the request carries two different keys; send one")
    return found[0]


_CARRIERS = frozenset({b"authorization", b"x-api-key", b"x-goog-api-key"})


def _decoded(name: bytes, value: bytes) -> str:
    text = value.decode("latin-1").strip()
    if name != b"authorization":
        return text
    scheme, _, key = text.partition(" ")
    if scheme.lower() != "bearer":
        raise AuthenticationError("the only scheme of Authorization here is Bearer")
    return key.strip()


def _query_fields(query: bytes) -> list[tuple[str, str]]:
    try:
        return parse_qsl(query.decode("ascii"), keep_blank_values=True, max_num_fields=MAX_QUERY_FIELDS)
    except ValueError:
        raise Refusal(400, "invalid", "the query is malformed") from None
