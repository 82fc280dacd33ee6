"""What is looked at before anything else: the target, the headers, the host and the origin of a request.

Paths are judged as they came, before a router sees them, so that there is one spelling of each path and no two
readers can differ. Names in `Host` are checked because a page in a browser can point a name of its own at this
address; a literal address cannot be pointed anywhere.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from small4.errors import ForbiddenError
from small4.server.bounds import Bounds
from small4.server.refusal import CLOSE, Refusal

RawHeaders = Iterable[tuple[bytes, bytes]]

ONCE = frozenset(  # a second one would leave it open which of them holds
    {b"host", b"authorization", b"x-api-key", b"x-goog-api-key", b"origin", b"content-length", b"content-type"}
    | {b"transfer-encoding", b"content-encoding", b"idempotency-key", b"anthropic-version"}
)
PLAIN = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~/:@+,=$!*()'&")
ENCODED_COLON = b"%3a"  # some clients write the colon of a Google method so; no other escape is needed by any path

EXPOSED_HEADERS = (
    "x-request-id, request-id, x-ignored-fields, x-reasoning-effort, x-small4-route, retry-after, idempotency-replayed"
)
PREFLIGHT_SECONDS = "600"


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Who is let to the door."""

    hosts: tuple[str, ...] = ()  # names, besides localhost and literal addresses, that `Host` may give; "*": any
    origins: tuple[str, ...] = ()  # of pages that may call from a browser, such as "https://chat.example"; "*": any
    accepts_key_in_query: bool = True  # Google's `?key=`; it is in no log of ours, but may be in a proxy's
    needs_key_when_none_exists: bool = False  # shut to everybody until the first key is made


class Door:
    """ASGI middleware: refuses malformed targets, doubled headers, foreign hosts and origins; answers preflights."""

    def __init__(self, app: ASGIApp, access: Access, bounds: Bounds) -> None:
        self.app, self.access, self.bounds = app, access, bounds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        check_target(scope, self.bounds)
        headers = dict(_checked_headers(scope["headers"], self.bounds))
        _check_framing(headers)
        host = headers.get(b"host", b"").decode("latin-1")
        check_host(host, self.access.hosts)
        origin = headers.get(b"origin")
        if origin is None:
            return await self.app(scope, receive, send)
        allowed = check_origin(origin.decode("latin-1"), f"{scope['scheme']}://{host}", self.access.origins)
        if scope["method"] == "OPTIONS" and b"access-control-request-method" in headers:
            return await _answer_preflight(send, allowed)
        await self.app(scope, receive, _with_headers(send, _cors(allowed)))


def check_target(scope: Scope, bounds: Bounds) -> None:
    """Raises unless the path is written in the one way that paths are written here."""
    target: bytes = scope["raw_path"]
    size = len(target) + len(scope["query_string"])
    if size > bounds.max_target_bytes:
        raise Refusal(
            414, "invalid", f"path and query have {size} bytes, the limit is {bounds.max_target_bytes}", CLOSE
        )
    plain = target.replace(ENCODED_COLON, b":").replace(ENCODED_COLON.upper(), b":")
    segments = plain.split(b"/")
    is_plain = plain.startswith(b"/") and PLAIN.issuperset(plain)
    if not is_plain or b"" in segments[1:-1] or b"." in segments or b".." in segments:
        raise Refusal(
            400,
            "invalid",
            "the path is not written plainly: no //, no dot segments, no escapes but %3A, no full URL",
            CLOSE,
        )
    if scope["path"] != plain.decode("ascii"):
        raise Refusal(400, "invalid", "the path can be read in two ways", CLOSE)


def _checked_headers(headers: RawHeaders, bounds: Bounds) -> RawHeaders:
    headers = list(headers)
    size = sum(len(name) + len(value) for name, value in headers)
    if len(headers) > bounds.max_headers or size > bounds.max_header_bytes:
        raise Refusal(
            431,
            "invalid",
            f"{len(headers)} headers of {size} bytes; the limits are {bounds.max_headers} and "
            f"{bounds.max_header_bytes} bytes",
            CLOSE,
        )
    counts = Counter(name for name, _ in headers)
    for name in ONCE & counts.keys():
        if counts[name] > 1:
            raise Refusal(400, "invalid", f"the header {name.decode()} came {counts[name]} times; send it once", CLOSE)
    return headers


def _check_framing(headers: dict[bytes, bytes]) -> None:
    if b"content-length" in headers and b"transfer-encoding" in headers:
        raise Refusal(400, "invalid", "the body has two lengths: Content-Length and Transfer-Encoding", CLOSE)
    encoding = headers.get(b"content-encoding", b"identity").strip().lower()
    if encoding != b"identity":
        raise Refusal(415, "invalid", "compressed bodies are not taken; send it as it is", CLOSE)


def check_host(host: str, allowed: tuple[str, ...]) -> None:
    """Raises unless `Host` is localhost, a literal address, or a name that this server was told."""
    name = _host_name(host)
    if name is None or not ("*" in allowed or name == "localhost" or name in allowed or _is_address(name)):
        raise ForbiddenError("this Host is not served here; start the server with it as an allowed host")


def _host_name(host: str) -> str | None:
    """The name without its port, in lower case; None where it is no name."""
    if host.startswith("["):
        name, bracket, rest = host[1:].partition("]")
        name = name if bracket else ""
    else:
        name, colon, port = host.partition(":")
        rest = colon + port
    has_port = rest == "" or (rest[0] == ":" and rest[1:].isascii() and rest[1:].isdigit())
    is_name = name != "" and all(letter.isascii() and (letter.isalnum() or letter in ".-_:") for letter in name)
    return name.lower() if is_name and has_port else None


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def check_origin(origin: str, own: str, allowed: tuple[str, ...]) -> str:
    """The origin, if it is this server's own or an allowed one; raises otherwise."""
    if origin == own or origin in allowed or "*" in allowed:
        return origin
    raise ForbiddenError("pages of this origin may not call this server; start it with the origin allowed")


def _cors(origin: str) -> list[tuple[bytes, bytes]]:
    return [
        (b"access-control-allow-origin", origin.encode("latin-1")),
        (b"access-control-expose-headers", EXPOSED_HEADERS.encode()),
        (b"vary", b"origin"),
    ]


async def _answer_preflight(send: Send, origin: str) -> None:
    """A preflight carries no key; it opens nothing but the browser's way to ask."""
    headers = [
        *_cors(origin),
        (b"access-control-allow-methods", b"GET, POST, DELETE"),
        (b"access-control-allow-headers", b"*, authorization"),
        (b"access-control-max-age", PREFLIGHT_SECONDS.encode()),
    ]
    await send({"type": "http.response.start", "status": 204, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


def _with_headers(send: Send, headers: list[tuple[bytes, bytes]]) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", []), *headers]}
        await send(message)

    return sending
