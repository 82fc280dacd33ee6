"""Tokenizers that the tests share: the shipped one, and the release's vocabulary as far as it is public."""

from pathlib import Path

import pytest
from hypothesis import settings

import small4.nano
from small4.tokenizer.tekken import Tokenizer
from small4.tokenizer.truncate import dump_tekken, nano_tekken

settings.register_profile("tokenizer", deadline=None)  # a busy machine is no failure
settings.load_profile("tokenizer")

NUM_RELEASE_RANKS = 130_072  # with 1000 special tokens: the release's vocabulary of 131072


@pytest.fixture(scope="session")
def nano_file() -> Path:
    return Path(small4.nano.__path__[0]) / "tekken.json"


@pytest.fixture(scope="session")
def nano(nano_file: Path) -> Tokenizer:
    return Tokenizer.from_file(nano_file)


@pytest.fixture(scope="session")
def release_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("release") / "tekken.json"
    path.write_text(dump_tekken(nano_tekken(NUM_RELEASE_RANKS)), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def release(release_file: Path) -> Tokenizer:
    return Tokenizer.from_file(release_file)
