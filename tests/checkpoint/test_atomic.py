"""A save that fails or is killed at any point leaves the old checkpoint whole and nothing that hinders the next."""

import os
import resource
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from small4.checkpoint.load import load_model
from small4.checkpoint.save import file_sizes, save_model
from small4.checkpoint.verify import verify
from small4.errors import SaveError
from tests.checkpoint.tiny_models import TEXT, parameters, random_model, same


@contextmanager
def largest_file(num_bytes):
    """A disk on which files may grow to so many bytes only: the system refuses the write that crosses it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_at_any_write_leaves_the_old_checkpoint(tmp_path):
    old, new = random_model(TEXT, seed=0), random_model(TEXT, seed=1)
    path = tmp_path / "model"
    save_model(old, path, format="hf-f32")
    files = {file.name: file.read_bytes() for file in path.iterdir()}
    (size,) = file_sizes(TEXT, "hf-f32")
    for limit in (0, 1, 500, 1500, 4000, size // 2, size - 1):
        with largest_file(limit), pytest.raises(SaveError, match="untouched"):
            save_model(new, path, format="hf-f32", max_shard_bytes=20_000 if limit < 1000 else size)
        assert {file.name: file.read_bytes() for file in path.iterdir()} == files
        assert list(tmp_path.iterdir()) == [path]
    save_model(new, path, format="hf-f32")
    assert same(parameters(load_model(path, dtype=None)), parameters(new))


def test_an_error_between_the_files_leaves_the_old_checkpoint(tmp_path):
    save_model(random_model(TEXT), tmp_path / "model", format="hf-f32")
    for extra, message in (("config.json", "another name"), ("tekken.json", "No such file")):
        with pytest.raises(SaveError, match=message):
            save_model(random_model(TEXT), tmp_path / "model", format="hf-f32", extra_files={extra: tmp_path / "none"})
        assert verify(tmp_path / "model").is_good
        assert len(list(tmp_path.iterdir())) == 1


def test_a_place_that_cannot_be_written_is_said_to_be_so(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(SaveError, match="cannot be written"):
        save_model(random_model(TEXT), tmp_path / "file" / "model", format="hf-f32")


def test_a_directory_moved_aside_by_a_killed_save_is_put_back(tmp_path):
    """Only where two names cannot be exchanged in one step; the state is made by hand here."""
    save_model(random_model(TEXT), tmp_path / "model", format="hf-f32")
    (tmp_path / "model").rename(tmp_path / ".model.replaced")
    with largest_file(0), pytest.raises(SaveError):
        save_model(random_model(TEXT, seed=1), tmp_path / "model", format="hf-f32")
    assert verify(tmp_path / "model").is_good
    assert same(parameters(load_model(tmp_path / "model", dtype=None)), parameters(random_model(TEXT)))


KILLER = """
import os, random, resource, signal, sys, time
from pathlib import Path
import torch
from small4.checkpoint.load import load_model
from small4.checkpoint.save import save_model
from small4.checkpoint.verify import verify
from tests.checkpoint.tiny_models import TEXT, parameters, random_model, same

path, trials = Path(sys.argv[1]), int(sys.argv[2])
torch.set_num_threads(1)
models = [random_model(TEXT, seed=seed) for seed in range(2)]
save_model(models[0], path, format="hf-f32")
started = time.monotonic()
save_model(models[0], path, format="hf-f32")
duration = time.monotonic() - started
rng, seen, killed = random.Random(7), set(), 0
for trial in range(trials):
    child = os.fork()
    if child == 0:
        if trial % 2:  # the system kills it at the write that crosses this size
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_FSIZE, (rng.randrange(60_000), -1))
        save_model(models[trial % 3 % 2], path, format="hf-f32")
        os._exit(0)
    rng.random()
    if trial % 2 == 0:
        time.sleep(rng.uniform(0, 1.2 * duration))
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    killed += os.WIFSIGNALED(status)
    report = verify(path)
    assert report.is_good and report.has_manifest, report.problems
    loaded = parameters(load_model(path, dtype=None))
    matches = [same(loaded, parameters(model)) for model in models]
    assert sum(matches) == 1, "neither the old nor the new"
    seen.add(matches.index(True))
save_model(models[0], path, format="hf-f32")
assert [entry.name for entry in path.parent.iterdir()] == [path.name], "a killed save left something"
print(f"{trials} trials, {killed} killed, checkpoints seen {sorted(seen)}")
"""


@pytest.mark.parametrize("trials", [4, pytest.param(1000, marks=pytest.mark.slow)])
def test_a_kill_at_any_moment_leaves_a_whole_checkpoint(tmp_path, trials):
    (tmp_path / "run").mkdir()
    result = subprocess.run(
        [sys.executable, "-c", KILLER, str(tmp_path / "run" / "model"), str(trials)],
        capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    killed = int(result.stdout.split(" killed")[0].split()[-1])
    assert killed >= trials // 4
