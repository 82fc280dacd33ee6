"""Runs the application on a socket: uvicorn with our bounds, and a stop that cuts nobody off."""

import asyncio
import gc
import logging
import math
import resource
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import ip_address
from types import FrameType

import uvicorn
from starlette.applications import Starlette

from small4.errors import ConfigError
from small4.server.bounds import KIB, Bounds
from small4.server.keys import KeyStore
from small4.server.log import Log
from small4.server.protocol import protocol_of
from small4.server.service import Service

DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 4119
LAST_SECONDS = 2  # after the grace, for the last events to leave
START_SECONDS = 30.0
SPARE_FILES = 256  # for all but connections: files, batches, other providers, the libraries


def serve(
    app: Starlette,
    host: str = DEFAULT_HOST,
    port: int = DEFAULT_PORT,
    *,
    on_start: Callable[[str], None] = lambda url: None,
) -> None:
    """Serve until SIGTERM or Ctrl-C; `on_start` is told the URL once connections are taken.

    The first signal stops new answers and leaves open ones their grace, the second ends them, the third everything.
    """
    server = _server(app, host, port, on_start)
    pass_over_loaded()
    server.run()


def pass_over_loaded() -> None:
    """Take what is loaded by now out of the garbage collector's rounds, each of which stops every stream.

    Going through the objects of the nano and its libraries takes 120 ms, and all of them live as long as the process.
    """
    gc.collect()
    gc.freeze()


@contextmanager
def serving(app: Starlette, host: str = DEFAULT_HOST, port: int = 0) -> Iterator[str]:
    """The application on a socket, in a thread, for as long as the block lasts; gives its URL."""
    urls: list[str] = []
    started = threading.Event()

    def note(url: str) -> None:
        urls.append(url)
        started.set()

    server = _server(app, host, port, note)
    thread = threading.Thread(target=server.run, name="small4 server", daemon=True)
    thread.start()
    if not started.wait(START_SECONDS):
        raise ConfigError(f"the server did not start on {host}:{port}; see its log")
    try:
        yield urls[0]
    finally:
        server.stop()
        thread.join()


def check_address(store: KeyStore, host: str, port: int) -> None:
    """Raises if other machines could call before a key exists, or if the port cannot be had."""
    if not _is_loopback(host) and not store.exists():
        raise ConfigError(
            f"{host} is open to other machines and there is no key; make one first: small4 keys create NAME"
        )
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        reason = error.strerror or "it is taken"
        raise ConfigError(
            f"cannot listen on {host}:{port}: {reason}; choose another --port, or see: small4 ps"
        ) from None


class Server(uvicorn.Server):
    """uvicorn's server, with a grace for open answers."""

    def __init__(self, config: uvicorn.Config, service: Service, on_start: Callable[[str], None]) -> None:
        super().__init__(config)
        self._service, self._on_start = service, on_start
        self._loop: asyncio.AbstractEventLoop | None = None
        self._has_ended_grace = False

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, with its own few words in our log."""
        logger, handler = logging.getLogger("uvicorn"), _LogHandler(self._service.log)
        logger.addHandler(handler)
        propagates, logger.propagate = logger.propagate, False
        try:
            await super().serve(sockets)
        finally:
            logger.removeHandler(handler)
            logger.propagate = propagates

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._loop = asyncio.get_running_loop()
        self._on_start(_url(self.servers[0].sockets[0].getsockname()))

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """What a signal does; the process then ends by itself, with 0."""
        self.stop()

    def stop(self) -> None:
        """From any thread; see `serve` for what a second and a third call do."""
        drain, loop = self._service.drain, self._loop
        if loop is None or self._has_ended_grace:
            self.should_exit = self.force_exit = True
        elif self.should_exit:
            self._has_ended_grace = True
            loop.call_soon_threadsafe(drain.end)
        else:
            loop.call_soon_threadsafe(drain.begin, self._service.bounds.drain_seconds)
        self.should_exit = True


class _LogHandler(logging.Handler):
    """Makes a line of ours of a warning; what it was about may be a caller's and is left out."""

    def __init__(self, log: Log) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        self._log.write("http", {"message": str(record.msg)})


def _server(app: Starlette, host: str, port: int, on_start: Callable[[str], None]) -> Server:
    service: Service = app.state.service
    check_address(service.store, host, port)
    return Server(_config(app, host, port, _with_open_files(service.bounds)), service, on_start)


def _with_open_files(bounds: Bounds) -> Bounds:
    """Have the system allow as many open files as there may be connections and more, or allow fewer connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit, max_connections = open_files(bounds.max_connections, soft, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    return replace(bounds, max_connections=max_connections)


def open_files(max_connections: int, soft: int, hard: int) -> tuple[int, int]:
    """The limit to ask for, and the connections that it leaves room for: were they to take all, nothing could open."""
    unlimited = resource.RLIM_INFINITY
    wanted = max_connections + SPARE_FILES
    limit = soft if soft == unlimited or soft >= wanted else wanted if hard == unlimited else min(wanted, hard)
    room = max_connections if limit == unlimited else max(1, limit - min(SPARE_FILES, limit // 2))
    return limit, min(max_connections, room)


def _config(app: Starlette, host: str, port: int, bounds: Bounds) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        http=protocol_of(bounds),
        ws="none",
        lifespan="on",
        loop="asyncio",
        log_config=None,
        access_log=False,
        proxy_headers=False,  # the address of a client is that of its connection
        server_header=False,
        h11_max_incomplete_event_size=bounds.max_header_bytes + bounds.max_target_bytes + KIB,
        timeout_keep_alive=math.ceil(bounds.keep_alive_seconds),
        timeout_graceful_shutdown=math.ceil(bounds.drain_seconds) + LAST_SECONDS,
    )


def _url(name: tuple[str, int]) -> str:
    host, port = name[:2]
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}"


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
