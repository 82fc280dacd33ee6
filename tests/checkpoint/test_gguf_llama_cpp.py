"""llama.cpp itself runs the files that we write. Skipped unless the package llama_cpp is there."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from small4.checkpoint.gguf_read import open_gguf
from small4.checkpoint.gguf_write import write_gguf
from small4.model.attention import FullAttention
from small4.model.config import ModelConfig, YarnConfig
from small4.tokenizer.tekken import Tokenizer
from small4.tokenizer.truncate import nano_tekken
from tests.checkpoint.gguf_models import InMemory, load, tiny_config, tiny_model

llama_cpp = pytest.importorskip("llama_cpp")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

BASE = tiny_config(vision=None, vocab_size=1000 + 2072)
CONFIGS = {
    "plain scale": BASE,
    "scaled": dataclasses.replace(BASE, yarn=YarnConfig(apply_scale=True)),
    "short": dataclasses.replace(BASE, yarn=YarnConfig(factor=4.0, original_max_position_embeddings=64)),
    "tied": dataclasses.replace(BASE, tied_embeddings=True),
}


@pytest.fixture(scope="module")
def tekken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tekken") / "tekken.json"
    path.write_text(json.dumps(nano_tekken()))
    return path


def run_llama_cpp(path: Path) -> llama_cpp.Llama:
    return llama_cpp.Llama(str(path), n_ctx=512, n_threads=1, logits_all=True, flash_attn=False, verbose=False)


@pytest.mark.parametrize("kind", ["gguf-bf16", "gguf-q8_0"])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_llama_cpp_gives_the_same_logits(config: ModelConfig, kind: str, tekken: Path, tmp_path: Path) -> None:
    """It rounds activations to BF16 or to 8 bits before each product, which now and then flips a near-tie of the gate.

    Logits have deviation 1; the other softmax scale would put the mean distance at 0.5.
    """
    (path,) = write_gguf(InMemory(tiny_model(config)), tmp_path, kind, tokenizer=tekken)  # type: ignore[arg-type]
    tokens = [(i * 7 % 9) * 300 + 40 for i in range(48)]
    theirs = run_llama_cpp(path)
    theirs.eval(tokens)
    with torch.no_grad():
        ours = load(open_gguf(path), torch.float32)(torch.tensor(tokens), torch.arange(48), FullAttention([48]))
    assert (torch.from_numpy(theirs.scores[:48]) - ours).abs().mean() < 0.06


def test_llama_cpp_tokenises_as_tekken(tekken: Path, tmp_path: Path) -> None:
    (path,) = write_gguf(InMemory(tiny_model(BASE)), tmp_path, "gguf-bf16", tokenizer=tekken)
    theirs, ours = run_llama_cpp(path), Tokenizer.from_file(tekken)
    for text in ("What is 17+48+36+25?\n\n  Indent\ttab", "naïve Straße 日本語 🙂 ½", "</s>[INST]x", "a\r\nb  "):
        assert theirs.tokenize(text.encode(), add_bos=False, special=False) == ours.encode_text(text)
