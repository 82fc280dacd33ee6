"""The tokenizer keys of a GGUF file merge bytes into the same tokens as Tekken."""

import itertools
import json
from pathlib import Path

import gguf
import pytest

from small4.checkpoint.gguf_header import read_array, read_header
from small4.checkpoint.gguf_read import open_gguf
from small4.checkpoint.gguf_tokenizer import merges, spell, tokenizer_keys
from small4.checkpoint.gguf_write import write_gguf
from small4.errors import SaveError
from small4.tokenizer.tekken import Tokenizer
from small4.tokenizer.truncate import nano_tekken
from tests.checkpoint.gguf_models import InMemory, tiny_config, tiny_model

NUM_TOKENS = 1000 + 2072


@pytest.fixture(scope="module")
def tekken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tekken") / "tekken.json"
    path.write_text(json.dumps(nano_tekken()))
    return path


def test_tokens_types_and_merges_are_those_of_the_gguf_package(tekken: Path) -> None:
    keys = tokenizer_keys(tekken, NUM_TOKENS)
    theirs = gguf.MistralVocab(tekken.parent)
    texts, _, types = zip(*theirs.all_tokens(), strict=True)
    assert keys["tokenizer.ggml.tokens"] == [text.decode() for text in texts]
    assert keys["tokenizer.ggml.token_type"] == list(types)
    assert keys["tokenizer.ggml.merges"] == theirs.extract_vocab_merges_from_model()
    assert (theirs.bos_id, theirs.eos_id, theirs.unk_id, theirs.pad_id) == tuple(
        keys[f"tokenizer.ggml.{name}_token_id"] for name in ("bos", "eos", "unknown", "padding")
    )


@pytest.mark.parametrize("word", [" hello", "The", " question", " Straße", "...", " 日本", "naïve", "\t\t", "\u00a0"])
def test_the_merges_make_tekkens_tokens(tekken: Path, word: str) -> None:
    tokenizer = Tokenizer.from_file(tekken)
    urgency = {
        pair: place for place, pair in enumerate(merges([tokenizer.token_bytes(i) for i in range(1000, NUM_TOKENS)]))
    }
    pieces = [bytes([byte]) for byte in word.encode()]
    while len(pieces) > 1:
        pairs = list(itertools.pairwise(pieces))
        best = min(range(len(pairs)), key=lambda at: urgency.get(pairs[at], len(urgency)))
        if pairs[best] not in urgency:
            break
        pieces[best : best + 2] = [pieces[best] + pieces[best + 1]]
    assert pieces == [tokenizer.token_bytes(token) for token in tokenizer.encode_text(word)]


def test_every_byte_has_its_own_printable_letter() -> None:
    letters = [spell(bytes([byte])) for byte in range(256)]
    assert len(set(letters)) == 256
    assert all(letter.isprintable() and not letter.isspace() for letter in letters)
    assert spell(b"a b\n") == "aĠbĊ"


def test_a_written_file_carries_the_vocabulary_and_a_copy_of_tekken(tekken: Path, tmp_path: Path) -> None:
    model = tiny_model(tiny_config(vision=None, vocab_size=NUM_TOKENS + 5))
    write_gguf(InMemory(model), tmp_path, "gguf-bf16", tokenizer=tekken)
    header = read_header(tmp_path / "model.gguf")
    tokens = read_array(header, "tokenizer.ggml.tokens")
    assert len(tokens) == NUM_TOKENS + 5
    assert tokens[:3] == ["<unk>", "<s>", "</s>"]
    assert tokens[-1] == f"[PAD{NUM_TOKENS + 4}]"
    assert header.values["tokenizer.ggml.pre"] == "tekken"
    assert (tmp_path / "tekken.json").read_bytes() == tekken.read_bytes()
    assert open_gguf(tmp_path).config == model.config


def test_a_vocabulary_larger_than_the_model_is_refused(tekken: Path) -> None:
    with pytest.raises(SaveError, match=f"{NUM_TOKENS} tokens, the model has 96"):
        tokenizer_keys(tekken, 96)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"config": {"default_vocab_size": "x"}}'])
def test_a_file_that_is_no_tekken_is_refused_before_anything_is_written(content: str, tmp_path: Path) -> None:
    (tmp_path / "tekken.json").write_text(content)
    with pytest.raises(SaveError, match=r"not a tekken\.json"):
        write_gguf(
            InMemory(tiny_model(tiny_config(vision=None))), tmp_path, "gguf-bf16", tokenizer=tmp_path / "tekken.json"
        )
    assert not (tmp_path / "model.gguf").exists()
