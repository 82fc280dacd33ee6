"""A whole training run ends in a checkpoint that loads by its path, with its record beside it."""

import hashlib
import json
from pathlib import Path

import pytest

import small4
from small4.errors import ConfigError
from small4.train.run import train_nano


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_nano("test", tmp_path_factory.mktemp("run"), threads=1, n=1, suites=["sum2"])


def test_the_finished_checkpoint_answers(trained: Path) -> None:
    answer = small4.load(trained).chat("1+1", effort="high", max_tokens=5)
    assert answer.usage.completion_tokens >= 1


def test_the_record_names_weights_data_and_scores(trained: Path) -> None:
    record = json.loads((trained / "training.json").read_text())
    weights = trained / "model.safetensors"
    assert record["sha256"] == {weights.name: hashlib.sha256(weights.read_bytes()).hexdigest()}
    assert (record["steps"], record["config"]["seed"]) == (20, 0)
    scores = json.loads((trained / "evaluation.json").read_text())["scores"]
    assert [(row["skill"], row["effort"], row["n"]) for row in scores] == [("sum2", "none", 1), ("sum2", "high", 1)]


def test_the_loss_plot_is_a_png(trained: Path) -> None:
    assert (trained / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_a_second_run_does_not_write_over_the_first(trained: Path) -> None:
    with pytest.raises(ConfigError, match="--resume"):
        train_nano("test", trained.parent)


def test_an_unknown_suite_is_refused_before_the_training(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown suite 'sum99'; there are sum2"):
        train_nano("test", tmp_path / "run", suites=["sum2", "sum99"])
    assert not (tmp_path / "run").exists()
