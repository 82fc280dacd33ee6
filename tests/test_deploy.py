"""What can be told of `deploy/` without building it: it names files, commands and paths that exist, and no root."""

import configparser
import shlex
from pathlib import Path

import typer.main

from small4.cli.main import app
from small4.server.bounds import Bounds
from small4.server.run import DEFAULT_PORT

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"


def instructions() -> list[tuple[str, str]]:
    """Every instruction of the Dockerfile and its argument, on one line."""
    lines = [line for line in (DEPLOY / "Dockerfile").read_text().splitlines() if line and not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ").splitlines()
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in joined)]


def check_command(words: list[str]) -> None:
    """Raises unless this is a verb of the command line with options that it has."""
    verb, *arguments = words
    known = {name for option in typer.main.get_command(app).commands[verb].params for name in option.opts}
    assert known >= {word for word in arguments if word.startswith("--")}


def test_image_copies_only_files_that_exist_and_that_its_ignore_file_lets_in():
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text().split()
    copied = [rest.split() for word, rest in instructions() if word == "COPY" and not rest.startswith("--from")]
    names = [name for words in copied for name in words[:-1]]
    assert {f"!{name}" for name in names} == {line for line in ignored if line.startswith("!")}
    assert all((ROOT / name).exists() for name in names)
    assert "*" in ignored


def test_image_runs_without_root_and_starts_a_verb_that_exists():
    last = instructions()[max(n for n, (word, _) in enumerate(instructions()) if word == "FROM") :]
    found = dict(last)
    assert found["USER"] == "10001:10001"
    assert found["EXPOSE"] == str(DEFAULT_PORT)
    assert f":{DEFAULT_PORT}/ready" in found["HEALTHCHECK"]
    assert found["ENTRYPOINT"] == '["small4"]'
    check_command(shlex.split(found["CMD"].strip("[]").replace(",", " ")))
    assert "ADD" not in found


def test_image_takes_packages_by_digest_and_torch_by_version():
    installs = [
        part for word, rest in instructions() if word == "RUN" for part in rest.split("&&") if "pip install" in part
    ]
    assert len(installs) == 3
    assert "--require-hashes" in installs[0]
    assert all("--no-deps" in install for install in installs[1:])
    assert all("--only-binary :all:" in install for install in installs[:2])


def test_unit_starts_a_verb_that_exists_and_waits_for_open_answers():
    unit = configparser.ConfigParser(interpolation=None, strict=True)
    unit.optionxform = str
    unit.read(DEPLOY / "small4.service")
    command, *words = shlex.split(unit["Service"]["ExecStart"])
    assert command.endswith("/small4")
    check_command(words)
    assert int(unit["Service"]["TimeoutStopSec"]) > Bounds().drain_seconds
    assert "User" not in unit["Service"]
