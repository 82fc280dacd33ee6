"""`small4 bench engine` measures the engine and refuses what it cannot measure."""

import json

import pytest

from small4.cli.bench import measure
from small4.cli.main import main
from small4.engine.config import EngineConfig
from small4.engine.engine import Engine
from tests.engine.tiny import tiny_model


def test_rates_settle_on_what_the_engine_did_and_its_blocks_come_back() -> None:
    engine = Engine(tiny_model(), EngineConfig(cache_bytes=2**20, has_prefix_cache=False), context_length=512)
    *_, last = measure(engine, 3, 0.3)
    assert last.streams == 3
    assert last.steps > 0
    assert last.tokens_per_second > 0
    assert engine.scheduler.pool.num_free == engine.cache_plan.num_blocks


def test_the_command_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["bench", "engine", "nano", "--streams", "1", "--streams", "2", "--seconds", "0.05", "--json"])
    assert not stop.value.code
    figures = json.loads(capsys.readouterr().out)
    assert [rate["streams"] for rate in figures["rates"]] == [1, 2]


@pytest.mark.parametrize("words", [["bench", "disk"], ["bench", "engine", "nano", "--streams", "0"]])
def test_what_cannot_be_measured_is_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    assert "error:" in capsys.readouterr().err
