"""`small4 serve`: the server in this terminal, until Ctrl-C or SIGTERM.

Standard output has a few lines for people: where it listens, what it serves, who may call, how much fits. The log of
requests goes to a file of the state directory, which `small4 logs` shows; --log - sends it to standard error.
"""

import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from small4.cli import options

if TYPE_CHECKING:
    from small4.cli.servers import Running
    from small4.cli.speaker import Speaker
    from small4.gateway.assembly import Assembly
    from small4.llm import LLM
    from small4.server.keys import KeyStore
    from small4.server.models import Offer
    from small4.settings import Settings


def serve_command(
    model: Annotated[
        str | None,
        typer.Argument(help="nano, a name that `small4 list` shows, or a path. Left out: nano; none with --gateway."),
    ] = None,
    host: Annotated[
        str | None, typer.Option("--host", help="Listen there (127.0.0.1); others than loopback need a key.")
    ] = None,
    port: Annotated[int | None, typer.Option("--port", help="4119; 0 takes a free one.")] = None,
    gateway: Annotated[
        bool | None,
        typer.Option("--gateway/--no-gateway", help="Hosted routes too, with your keys; see small4 routes."),
    ] = None,
    ledger: Annotated[
        str | None, typer.Option("--ledger", metavar="ADDRESS", help="Of the gateway: a path, or a URL of PostgreSQL.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="In the place of small4.toml.")
    ] = None,
    name: Annotated[
        list[str] | None, typer.Option("--name", help="Another name that clients may ask for; repeatable.")
    ] = None,
    cache: options.Cache = None,
    quant: options.Quant = None,
    draft: options.Draft = None,
    skip_digests: options.SkipDigests = False,
    max_concurrent: Annotated[
        int | None, typer.Option("--max-concurrent", metavar="N", help="Requests that are answered at once.")
    ] = None,
    max_step_seconds: Annotated[
        float, typer.Option("--max-step-seconds", metavar="S", help="A longer step hangs, and the engine is replaced.")
    ] = 120.0,
    allow_host: Annotated[
        list[str] | None, typer.Option("--allow-host", metavar="NAME", help="A name in Host; repeatable.")
    ] = None,
    cors: Annotated[
        list[str] | None, typer.Option("--cors", metavar="ORIGIN", help="An origin whose pages may call; repeatable.")
    ] = None,
    allow_media: Annotated[
        list[str] | None,
        typer.Option("--allow-media", metavar="HOST", help="Fetch image links from it; *.example.org; repeatable."),
    ] = None,
    log: Annotated[str | None, typer.Option("--log", metavar="FILE", help="Log here; - for standard error.")] = None,
) -> None:
    """Serve a model to every SDK: OpenAI, Anthropic, Google and Mistral. With --gateway, hosted routes to it too."""
    from small4.cli.request import parse_quant, parse_size
    from small4.cli.speaker import load_speaker
    from small4.hub.names import NANO
    from small4.places import state_directory
    from small4.server.bounds import Bounds
    from small4.server.door import Access
    from small4.server.fetch import FetchConfig
    from small4.server.keys import KeyStore
    from small4.server.run import check_address
    from small4.settings import load_settings

    flags = {"host": host, "port": port, "model": model, "gateway": gateway, "ledger": ledger}
    settings = load_settings(flags, config=config)
    store = KeyStore(state_directory())
    check_address(store, settings.host, settings.port)
    speaker = None
    if settings.model is not None or not settings.has_gateway:
        speaker = load_speaker(
            settings.model or NANO,
            check_digests=not skip_digests,
            cache_bytes=parse_size(cache),
            quant=parse_quant(quant),
            draft=draft,
            max_step_seconds=max_step_seconds,
        )
    parts = {
        "bounds": Bounds() if max_concurrent is None else Bounds(max_concurrent=max_concurrent),
        "access": Access(hosts=tuple(allow_host or ()), origins=tuple(cors or ())),
        "fetch": FetchConfig(allowed_hosts=tuple(allow_media or ())),
    }
    _run(settings, store, speaker, tuple(name or ()), log, parts)
    print("stopped", file=sys.stderr)


def _run(
    settings: "Settings",
    store: "KeyStore",
    speaker: "LLM | None",
    names: tuple[str, ...],
    log: str | None,
    parts: dict[str, Any],
) -> None:
    """Serve until a signal; `parts` are the application's own."""
    from small4.cli.servers import Running, log_file, note_running
    from small4.server.app import create_app
    from small4.server.log import Log
    from small4.server.run import serve

    with ExitStack() as leaving:
        gateway, offers = None, [] if speaker is None else [offer_of(speaker, names)]
        if settings.has_gateway:
            from small4.cli.serve_gateway import opened_gateway
            from small4.server.models import routed_offers

            gateway = leaving.enter_context(opened_gateway(settings, speaker, names, store))
            offers = routed_offers(gateway.models, None if speaker is None else speaker.tokenizer)
        path = None if log == "-" else log_file(settings.port) if log is None else Path(log)
        app = create_app(
            offers,
            store,
            **parts,
            log=Log(leaving.enter_context(_opened(path)) if path is not None else sys.stderr),
            is_ready=lambda: is_ready(speaker, gateway),
            gateway=gateway,
        )

        def tell(url: str) -> None:
            running = Running(
                url=url,
                process_id=os.getpid(),
                model=offers[0].id,
                log=None if path is None else str(path),
                is_loaded=speaker is not None,
            )
            leaving.enter_context(note_running(running))
            for line in opening_lines(speaker, running, store, gateway, settings):
                print(line, flush=True)

        serve(app, settings.host, settings.port, on_start=tell)


def is_ready(speaker: "LLM | None", gateway: "Assembly | None") -> bool:
    """Whether a request would be answered now: the engine runs, and what costs money can be booked."""
    is_loaded = speaker is None or speaker.provider.is_ready
    return is_loaded and (gateway is None or not gateway.ledger.is_failing)


def offer_of(speaker: "LLM", names: Sequence[str] = ()) -> "Offer":
    """The loaded model as the server offers it; Small 4 itself answers to all its published names."""
    from small4.gateway.known import names_of_small4
    from small4.server.models import Offer

    name = Path(speaker.name).name  # of a path, what it ends in
    published = names_of_small4() if is_release(name) else ()
    return Offer(
        id=name,
        provider=speaker.provider,
        aliases=(*names, *(alias for alias in published if alias not in (name, *names))),
        tokenizer=speaker.tokenizer,
    )


def is_release(name: str) -> bool:
    """Whether this is Small 4 itself, by its published names; a nano never is."""
    return name.startswith(("small4", "mistral-small-4"))


def opening_lines(
    speaker: "Speaker | None", running: "Running", store: "KeyStore", gateway: "Assembly | None", settings: "Settings"
) -> list[str]:
    """What a user has to know of a server that has begun."""
    from small4.cli.serve_gateway import gateway_lines
    from small4.cli.speaker import label

    key = "every request needs a key: small4 keys list" if store.exists() else "no key needed from this machine"
    lines = [f"small4 listens on {running.url}   (its pages: {running.url}/docs)"]
    if speaker is not None:
        lines.append(f"model    {label(speaker)}")
        lines.append(f"context  {speaker.context_length:,} tokens; {speaker.cache_note}")
    if gateway is not None:
        lines += gateway_lines(gateway, settings)
    return [
        *lines,
        f"keys     {key}",
        f"log      {running.log or 'standard error'}",
        f"try      small4 snippet python, or: small4 snippet curl --url {running.url}",
        "Ctrl-C stops it; open answers get half a minute.",
    ]


def _opened(path: Path) -> TextIO:
    """The log, at its end; only its owner may read it."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "a", encoding="ascii")
