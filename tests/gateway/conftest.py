"""Ledgers for the tests of the gateway: a file of SQLite, and Debian's PostgreSQL where its programs are."""

import os
import pwd
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from small4.gateway import ledger_database

DEBIAN = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))


@pytest.fixture(params=["sqlite", *(pytest.param(name, marks=pytest.mark.slow) for name in ("logged", "postgresql"))])
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of a new, empty database; `logged` is SQLite as a newer library than this machine's may be used."""
    if request.param == "logged":
        monkeypatch.setattr(ledger_database, "SAFE_WAL", (3, 7, 0))
    if request.param != "postgresql":
        return str(tmp_path / "ledger.db")
    new_database: Callable[[], str] = request.getfixturevalue("postgresql")
    return new_database()


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Callable[[], str]]:
    """A function that makes a database in a server of our own."""
    if not DEBIAN:
        pytest.skip("PostgreSQL's programs are not installed (apt-get install postgresql)")
    if find_spec("pg8000") is None:
        pytest.skip("no driver for PostgreSQL is installed (pip install pg8000)")
    directory = Path(tempfile.mkdtemp(prefix="small4-postgresql-"))
    is_root = os.getuid() == 0
    user = pwd.getpwnam("postgres").pw_uid if is_root else None  # which refuses to run as root
    if user is not None:
        os.chown(directory, user, -1)
    programs = DEBIAN[-1].parent
    data = directory / "data"
    subprocess.run(
        [programs / "initdb", "-D", data, "-U", "small4", "--auth=trust", "-N"],
        check=True, user=user, stdout=subprocess.DEVNULL, cwd=directory,
    )  # fmt: skip
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = f"-k {directory} -p {port} -c listen_addresses=127.0.0.1"
    control = [programs / "pg_ctl", "-w", "-D", data, "-l", directory / "log"]
    subprocess.run([*control, "-o", options, "start"], check=True, user=user, stdout=subprocess.DEVNULL, cwd=directory)
    try:
        yield lambda: _new_database(f"postgresql+pg8000://small4@127.0.0.1:{port}")
    finally:
        subprocess.run(
            [*control, "-m", "immediate", "stop"], check=True, user=user, stdout=subprocess.DEVNULL, cwd=directory
        )
        shutil.rmtree(directory, ignore_errors=True)


def _new_database(address: str) -> str:
    name = f"ledger_{secrets.token_hex(6)}"
    engine = create_engine(f"{address}/postgres", isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return f"{address}/{name}"
