"""Tokenizers that the tests share: the shipped one, and the release's vocabulary as far as it is public."""

from pathlib import Path

import pytest

import small4.nano
from small4.tokenizer.tekken import Tokenizer
from small4.tokenizer.truncate import nano_tekken

NUM_RELEASE_RANKS = 130_072  # with 1000 special tokens: the release's vocabulary of 131072


@pytest.fixture(scope="session")
def nano_file() -> Path:
    return Path(small4.nano.__path__[0]) / "tekken.json"


@pytest.fixture(scope="session")
def nano(nano_file: Path) -> Tokenizer:
    return Tokenizer.from_file(nano_file)


@pytest.fixture(scope="session")
def release() -> Tokenizer:
    return Tokenizer.from_content(nano_tekken(NUM_RELEASE_RANKS), "the release's vocabulary")
