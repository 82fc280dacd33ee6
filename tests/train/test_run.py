"""A whole training run ends in a checkpoint that loads by its path, with its record beside it."""

import hashlib
import json
from pathlib import Path

import pytest

import small4
from small4.errors import ConfigError
from small4.train.evaluate import evaluate
from small4.train.run import train_nano
from small4.train.suites import WHOLE_SUITES, default_suites


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    checkpoint = train_nano("test", tmp_path_factory.mktemp("run"), small4.load, threads=1, n=1, suites=["sum2"])
    assert checkpoint is not None
    return checkpoint


def test_the_finished_checkpoint_answers(trained: Path) -> None:
    answer = small4.load(trained).chat("1+1", effort="high", max_tokens=5)
    assert answer.usage.completion_tokens >= 1


def test_the_record_names_weights_data_and_scores(trained: Path) -> None:
    record = json.loads((trained / "training.json").read_text())
    weights = trained / "model.safetensors"
    assert record["sha256"] == {weights.name: hashlib.sha256(weights.read_bytes()).hexdigest()}
    assert (record["steps"], record["config"]["seed"]) == (20, 0)
    evaluation = json.loads((trained / "evaluation.json").read_text())
    assert (evaluation["contamination"]["seen"], evaluation["contamination"]["not_held_out"]) == (0, [])
    scores = evaluation["scores"]
    assert [(row["skill"], row["effort"], row["n"]) for row in scores] == [("sum2", "none", 1), ("sum2", "high", 1)]


def test_the_loss_plot_is_a_png(trained: Path) -> None:
    assert (trained / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_a_second_run_does_not_write_over_the_first(trained: Path) -> None:
    with pytest.raises(ConfigError, match="--resume"):
        train_nano("test", trained.parent, small4.load)


def test_an_unknown_suite_is_refused_before_the_training(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown suite 'sum99'; there are sum2"):
        train_nano("test", tmp_path / "run", small4.load, suites=["sum2", "sum99"])
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_checkpoint_of_the_whole_mix_reads_images_and_knows_its_suites(tmp_path: Path) -> None:
    checkpoint = train_nano("test-whole", tmp_path, small4.load, steps=1, threads=1, n=0)
    assert checkpoint is not None
    assert not (checkpoint / "evaluation.json").exists()
    suites, note = default_suites(checkpoint, has_vision=True, context_length=2048)
    assert set(WHOLE_SUITES) - set(suites) == {"needle300", "tool_twelve"}
    assert note == "left out, since the context has 2048 tokens: tool_twelve, needle300"
    (score,) = evaluate(small4.load(checkpoint), suites=["image_colour"], efforts=["none"], n=2)
    assert (score.n, score.distinct) == (2, 2)
