"""What `small4 pull` prints and asks, run as its own process against a hub on this machine."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from small4.cli.pull import progress_numbers
from small4.hub.fetch import PullProgress
from tests.hub.fake_hub import COMMIT, FakeHub, serving

REPO = "mistralai/Tiny-4"
PROGRAM = """
import typer
from small4.cli.pull import pull_command
app = typer.Typer(pretty_exceptions_enable=False)
app.command("pull")(pull_command)
app()
"""


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with serving(FakeHub(REPO, {"params.json": b"{}", "consolidated.safetensors": bytes(200_000)})) as running:
        yield running


def run(hub: FakeHub, home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(home), "NO_PROXY": "127.0.0.1"}
    env.pop("HF_HUB_CACHE", None)
    program = [sys.executable, "-c", PROGRAM, REPO, *arguments]
    return subprocess.run(program, env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)


def test_the_command_pulls_and_tells_where_the_model_lies(hub: FakeHub, tmp_path: Path) -> None:
    done = run(hub, tmp_path)
    assert done.returncode == 0
    assert done.stdout.startswith(str(tmp_path / "hub" / "models--mistralai--Tiny-4" / "snapshots" / COMMIT))
    assert "200.0 kB fetched" in done.stdout
    assert "verifying 100 %" in done.stderr


def test_json_goes_alone_to_standard_output(hub: FakeHub, tmp_path: Path) -> None:
    outcome = json.loads(run(hub, tmp_path, "--json", "--dry-run").stdout)
    assert (outcome["bytes_fetched"], outcome["revision"], outcome["dry_run"]) == (200_002, COMMIT, True)
    assert hub.sent_bytes == 0
    outcome = json.loads(run(hub, tmp_path, "--json").stdout)
    assert sorted(path.name for path in Path(outcome["path"]).iterdir()) == sorted(outcome["files"])


def test_more_than_a_gigabyte_is_not_fetched_without_consent(hub: FakeHub, tmp_path: Path) -> None:
    hub.listed_bytes = {"consolidated.safetensors": 2_000_000_000}
    done = run(hub, tmp_path)
    assert done.returncode != 0
    assert "give -y" in done.stderr
    assert hub.sent_bytes == 0


def test_progress_reads_as_bytes_rate_time_and_files() -> None:
    report = PullProgress("downloading", 60_000_000_000, 120_000_000_000, 50_000_000.0, 3, 9, "x")
    assert progress_numbers(report) == "60.0 GB of 120.0 GB  50.0 MB/s  0:20:00 left  file 4/9"
