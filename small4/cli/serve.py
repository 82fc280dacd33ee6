"""`small4 serve`: the server in this terminal, until Ctrl-C or SIGTERM.

Standard output has a few lines for people: where it listens, what it serves, who may call, how much fits. The log of
requests goes to a file of the state directory, which `small4 logs` shows; --log - sends it to standard error.
"""

import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from small4.cli import options

if TYPE_CHECKING:
    from small4.cli.servers import Running
    from small4.cli.speaker import Speaker
    from small4.llm import LLM
    from small4.server.keys import KeyStore
    from small4.server.models import Offer

PUBLISHED_NAMES = ("small4", "mistral-small-4")  # under which Small 4 itself is asked for


def serve_command(
    model: Annotated[
        str | None, typer.Argument(help="nano, a name that `small4 list` shows, or a path. Left out: nano.")
    ] = None,
    host: Annotated[
        str, typer.Option("--host", help="Address to listen on; others than loopback need a key.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="0 takes a free one.")] = 4119,
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
    """Serve a model to every SDK: OpenAI, Anthropic, Google and Mistral."""
    from small4.cli.places import state_directory
    from small4.cli.request import parse_quant, parse_size
    from small4.cli.servers import Running, log_file, note_running
    from small4.cli.speaker import load_speaker
    from small4.hub.names import NANO
    from small4.server.app import create_app
    from small4.server.bounds import Bounds
    from small4.server.door import Access
    from small4.server.fetch import FetchConfig
    from small4.server.keys import KeyStore
    from small4.server.log import Log
    from small4.server.run import check_address, serve

    store = KeyStore(state_directory())
    check_address(store, host, port)
    speaker = load_speaker(
        model or NANO,
        check_digests=not skip_digests,
        cache_bytes=parse_size(cache),
        quant=parse_quant(quant),
        draft=draft,
        max_step_seconds=max_step_seconds,
    )
    offer = offer_of(speaker, name or ())
    with ExitStack() as leaving:
        path = None if log == "-" else log_file(port) if log is None else Path(log)
        bounds = Bounds() if max_concurrent is None else Bounds(max_concurrent=max_concurrent)
        app = create_app(
            [offer],
            store,
            bounds=bounds,
            access=Access(hosts=tuple(allow_host or ()), origins=tuple(cors or ())),
            fetch=FetchConfig(allowed_hosts=tuple(allow_media or ())),
            log=Log(leaving.enter_context(_opened(path)) if path is not None else sys.stderr),
            is_ready=lambda: speaker.provider.is_ready,
        )

        def tell(url: str) -> None:
            running = Running(url=url, process_id=os.getpid(), model=offer.id, log=None if path is None else str(path))
            leaving.enter_context(note_running(running))
            for line in opening_lines(speaker, running, store):
                print(line, flush=True)

        serve(app, host, port, on_start=tell)
    print("stopped", file=sys.stderr)


def offer_of(speaker: "LLM", names: Sequence[str] = ()) -> "Offer":
    """The loaded model as the server offers it; Small 4 itself answers to all its published names."""
    from small4.server.models import SMALL4_ALIASES, Offer

    name = Path(speaker.name).name  # of a path, what it ends in
    is_release = any(name.startswith(published) for published in PUBLISHED_NAMES)
    return Offer(
        id=name,
        provider=speaker.provider,
        aliases=(*names, *(alias for alias in SMALL4_ALIASES if is_release and alias not in names)),
        tokenizer=speaker.tokenizer,
    )


def opening_lines(speaker: "Speaker", running: "Running", store: "KeyStore") -> list[str]:
    """What a user has to know of a server that has begun."""
    from small4.cli.speaker import label

    key = "every request needs a key: small4 keys list" if store.exists() else "no key needed from this machine"
    return [
        f"small4 listens on {running.url}   (its pages: {running.url}/docs)",
        f"model    {label(speaker)}",
        f"context  {speaker.context_length:,} tokens; {speaker.cache_note}",
        f"keys     {key}",
        f"log      {running.log or 'standard error'}",
        f"try      small4 snippet python, or: small4 snippet curl --url {running.url}",
        "Ctrl-C stops it; open answers get half a minute.",
    ]


def _opened(path: Path) -> TextIO:
    """The log, at its end; only its owner may read it."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "a", encoding="ascii")
