"""The nano's vocabulary and a compiler over it, shared by the tests of a session."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import small4.nano
from small4.grammar.compiler import Compiler
from small4.grammar.vocabulary import Vocabulary
from small4.tokenizer.tekken import Tokenizer


@pytest.fixture(scope="session")
def nano() -> Tokenizer:
    return Tokenizer.from_file(Path(small4.nano.__path__[0]) / "tekken.json")


@pytest.fixture(scope="session")
def vocabulary(nano: Tokenizer) -> Vocabulary:
    return Vocabulary.of(nano)


@pytest.fixture(scope="session")
def compiler(vocabulary: Vocabulary) -> Iterator[Compiler]:
    with Compiler(vocabulary) as compiler:
        yield compiler
