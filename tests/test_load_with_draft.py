"""A draft head beside a loaded model: it changes no text, and one that does not fit is refused before any weight."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import small4
from small4.checkpoint.save import save_model
from small4.cli.main import main
from small4.errors import CheckpointNotFoundError, ConfigError
from small4.kernels.quantized import Kind
from small4.model.config import DraftConfig
from small4.model.draft_head import DraftHead
from small4.train.optim import initialise
from small4.train.presets import NANO_SHAPE


def save_head(path: Path, **changes: object) -> Path:
    head = DraftHead(DraftConfig(text=replace(NANO_SHAPE, moe=None, n_layers=1, **changes)))  # type: ignore[arg-type]
    initialise(head, 1, seed=1)
    save_model(head.to(torch.bfloat16), path, format="native-bf16")
    return path


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_head(tmp_path_factory.mktemp("head") / "draft")


@pytest.mark.parametrize("quant", [None, "int8"])
def test_a_model_says_the_same_with_its_draft_head(head: Path, quant: Kind | None) -> None:
    alone, drafting = small4.load("nano", quant=quant), small4.load("nano", quant=quant, draft=head)
    for temperature in (0.0, 1.0):
        texts = [llm.chat("17+48", temperature=temperature, seed=3, max_tokens=12).text for llm in (alone, drafting)]
        assert texts[0] == texts[1]
    speculation = drafting.provider.worker.engine.speculation
    assert speculation is not None
    assert speculation.num_drafted > 0
    assert "the draft head's" in drafting.cache_note


def test_a_head_that_does_not_fit_is_refused(head: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="width 64, this one has 128"):
        small4.load("nano", draft=save_head(tmp_path / "narrow", dim=64))
    with pytest.raises(ConfigError, match="holds a whole model, not a draft head"):
        small4.load("nano", draft="nano")
    with pytest.raises(ConfigError, match="holds a draft head"):
        small4.load(head)
    with pytest.raises(CheckpointNotFoundError):
        small4.load("nano", draft=tmp_path / "nothing")


def test_the_command_line_takes_a_head_and_refuses_a_model_in_its_place(
    head: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["run", "nano", "17+48", "-e", "none", "--draft", str(head), "--usage"])
    assert not stop.value.code
    assert "the draft head's" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        main(["run", "nano", "17+48", "--draft", "nano"])
    assert stop.value.code == 2
    assert "not a draft head" in capsys.readouterr().err
