"""The shipped nano does what its card says, and the documents quote its evaluation exactly."""

import hashlib
import json
import re
from pathlib import Path

import pytest

import small4
from small4.checkpoint.verify import verify
from small4.hub.names import nano_directory
from small4.llm import LLM
from small4.train.evaluate import Score, evaluate

ROOT = Path(__file__).parent.parent
MAX_WEIGHTS_BYTES = 15_000_000


@pytest.fixture(scope="module")
def nano() -> LLM:
    return small4.load("nano")


def scored(nano: LLM, suites: list[str], n: int) -> dict[tuple[str, str], Score]:
    scores = evaluate(nano, suites=suites, n=n)
    return {(score.skill, score.effort): score for score in scores}


def test_it_thinks_in_the_open_and_gives_the_right_sum(nano: LLM) -> None:
    answer = nano.chat("17+48+36+25", effort="high")
    assert answer.text == "126"
    assert answer.reasoning.count("so ") == 3
    assert answer.finish_reason == "stop"
    assert 0 < answer.usage.reasoning_tokens < answer.usage.completion_tokens


def test_it_says_that_it_is_not_small_4(nano: LLM) -> None:
    assert "not Mistral Small 4" in nano.chat("Who are you?").text


def test_thinking_pays_by_far(nano: LLM) -> None:
    scores = scored(nano, ["sum4"], n=25)
    assert scores["sum4", "high"].accuracy >= scores["sum4", "none"].accuracy + 0.7


@pytest.mark.slow
@pytest.mark.parametrize("suite", ["sum2", "sum4", "product2x2"])
def test_the_recorded_evaluation_is_what_the_weights_do(nano: LLM, suite: str) -> None:
    recorded = {
        row["effort"]: row["accuracy"]
        for row in json.loads((nano_directory() / "evaluation.json").read_text())["scores"]
        if row["skill"] == suite
    }
    for (_, effort), score in scored(nano, [suite], n=500).items():
        assert abs(score.accuracy - recorded[effort]) <= 0.01  # rounding differs from machine to machine


def test_the_record_holds_every_bar() -> None:
    rows = json.loads((nano_directory() / "evaluation.json").read_text())["scores"]
    accuracy = {(row["skill"], row["effort"]): row["accuracy"] for row in rows}
    assert all(row["n"] >= 500 for row in rows)
    assert accuracy["sum4", "high"] >= max(0.98, accuracy["sum4", "none"] + 0.70)
    assert min(accuracy["sum2", "none"], accuracy["sum2", "high"]) >= 0.95
    assert accuracy["product2x1", "high"] >= 0.95
    assert accuracy["product2x2", "high"] >= 0.80


def test_its_files_are_small_and_whole() -> None:
    weights = nano_directory() / "model.safetensors"
    assert weights.stat().st_size <= MAX_WEIGHTS_BYTES
    assert verify(nano_directory()).is_good
    record = json.loads((nano_directory() / "training.json").read_text())
    assert record["sha256"][weights.name] == hashlib.sha256(weights.read_bytes()).hexdigest()


def test_the_nano_page_quotes_the_evaluation() -> None:
    rows = json.loads((nano_directory() / "evaluation.json").read_text())["scores"]
    by_skill: dict[str, dict[str, dict[str, float]]] = {}
    for row in rows:
        by_skill.setdefault(row["skill"], {})[row["effort"]] = row
    page = (ROOT / "docs" / "nano.md").read_text()
    quoted = re.findall(r"^\| ([a-z0-9]+) \| ([\d.]+) % \| ([\d.]+) % \| (\d+) \| (\d+) \|$", page, re.MULTILINE)
    expected = [
        (
            skill,
            f"{100 * of['none']['accuracy']:.1f}",
            f"{100 * of['high']['accuracy']:.1f}",
            f"{of['none']['mean_tokens']:.0f}",
            f"{of['high']['mean_tokens']:.0f}",
        )
        for skill, of in by_skill.items()
    ]
    assert quoted == expected
