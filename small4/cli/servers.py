"""The servers of this user that run on this machine: `small4 ps`, `stop` and `logs`.

Each server keeps a note in the state directory while it lives, and holds a lock on it, which ends with its process
however that ends. So a note that nobody holds is an old one, and its process id may belong to somebody else by now.
"""

import fcntl
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

import typer

STOP_SECONDS = 40.0  # open answers have half a minute
SHOWN_LINES = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A server that runs."""

    url: str
    process_id: int
    model: str
    log: str | None  # None: it writes to its own standard error
    is_loaded: bool = True  # False: a gateway to hosted routes alone
    started: float = field(default_factory=time.time)  # seconds since 1970

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])


def server_directory() -> Path:
    from small4.places import state_directory

    return state_directory() / "server"


def log_file(port: int) -> Path:
    """Where a server on this port logs."""
    return server_directory() / f"{port}.log"


@contextmanager
def note_running(running: Running) -> Iterator[None]:
    """Let the other verbs know of a server for as long as it runs."""
    # By process, since one that stops keeps its note for a while after its port is free for the next.
    file = server_directory() / f"{running.port}-{running.process_id}.json"
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    unfinished = file.with_suffix(".new")
    with open(os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as note:
        fcntl.flock(note, fcntl.LOCK_EX)
        json.dump(asdict(running), note)
        note.flush()
        unfinished.replace(file)  # nobody sees it before it is held
        try:
            yield
        finally:
            file.unlink(missing_ok=True)


def running_servers() -> list[Running]:
    """All that run, by port; notes that dead ones left are removed."""
    found = []
    for file in server_directory().glob("*.json"):
        try:
            with file.open(encoding="utf-8") as note:
                if _is_held(note.fileno()):
                    found.append(Running(**json.load(note)))
                else:
                    file.unlink(missing_ok=True)
        except (OSError, ValueError, TypeError):  # it stops at this moment, or has not finished its note
            continue
    return sorted(found, key=lambda running: running.port)


def ps_command(
    as_json: Annotated[bool, typer.Option("--json", help="Print the list as JSON.")] = False,
) -> None:
    """List the servers that run."""
    from small4.cli.ink import Ink
    from small4.cli.readable import duration_text

    servers = running_servers()
    if as_json:
        print(json.dumps([asdict(running) for running in servers]))
    elif not servers:
        print("no server runs; start one with: small4 serve")
    else:
        rows = [
            (running.url, running.model, str(running.process_id), duration_text(time.time() - running.started))
            for running in servers
        ]
        Ink(sys.stdout).table(("url", "model", "process", "running for"), rows)


def stop_command(
    port: Annotated[int | None, typer.Argument(help="Of the server; left out: the only one.")] = None,
) -> None:
    """Stop a server; its open answers get half a minute."""
    running = _chosen(port)
    os.kill(running.process_id, signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    while any(other.process_id == running.process_id for other in running_servers()):
        if time.monotonic() > deadline:
            from small4.errors import ConfigError

            raise ConfigError(
                f"process {running.process_id} has not stopped in {STOP_SECONDS:.0f} s; end it by kill -9"
            )
        time.sleep(0.1)
    print(f"stopped {running.url}")


def logs_command(
    port: Annotated[int | None, typer.Argument(help="Of the server; left out: the only one.")] = None,
    num_lines: Annotated[int, typer.Option("-n", metavar="N", help="So many of the last lines.")] = SHOWN_LINES,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with the lines that come.")] = False,
) -> None:
    """Show the log of a server, one JSON object a line; no prompt and no key is in it."""
    from small4.errors import ConfigError

    file = log_file(port) if port is not None and log_file(port).exists() else None
    if file is None:
        running = _chosen(port)
        if running.log is None:
            raise ConfigError(f"the server on port {running.port} logs to its own terminal")
        file = Path(running.log)
    with file.open(encoding="ascii") as log:
        for line in log.readlines()[-num_lines:]:
            print(line, end="")
        while follow:
            line = log.readline()
            print(line, end="", flush=True)
            if not line:
                time.sleep(0.2)


def _chosen(port: int | None) -> Running:
    """The server on that port, or the only one."""
    from small4.errors import ConfigError

    servers = running_servers()
    chosen = [running for running in servers if port in (None, running.port)]
    if len(chosen) == 1:
        return chosen[0]
    ports = ", ".join(str(running.port) for running in servers)
    if not servers:
        raise ConfigError("no server runs; start one with: small4 serve")
    raise ConfigError(f"servers run on the ports {ports}; name one of them")


def _is_held(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    return False
