"""The command line in this process, and a tiny checkpoint to use it on."""

import io
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from huggingface_hub import constants

from small4.cli.main import main


@dataclass(frozen=True)
class Done:
    returncode: object
    stdout: str
    stderr: str


Small4 = Callable[..., Done]


@pytest.fixture
def small4(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Small4:
    """Run the command in an empty directory, with an empty home and no terminal."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))

    def run(*arguments: str, stdin: bytes = b"") -> Done:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        with pytest.raises(SystemExit) as exit:
            main(list(arguments))
        return Done(exit.value.code, *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved model of the nano's vocabulary with random weights: it answers, in nonsense."""
    import torch

    import small4.nano
    from small4.checkpoint.save import save_model
    from small4.model.transformer import Transformer
    from small4.train.optim import initialise
    from small4.train.presets import TEST_SHAPE

    model = Transformer(TEST_SHAPE)
    initialise(model, TEST_SHAPE.n_layers, 0)
    path = tmp_path_factory.mktemp("models") / "tiny"
    tekken = Path(small4.nano.__file__).parent / "tekken.json"
    save_model(model.to(torch.bfloat16), path, format="hf-fp8", extra_files={"tekken.json": tekken})
    return path
