"""The shipped vocabulary is what the function makes."""

from pathlib import Path

import pytest
from mistral_common.tokens.tokenizers.tekken import Tekkenizer

from small4.errors import ConfigError
from small4.tokenizer.images import ImageGrid
from small4.tokenizer.tekken import Tokenizer
from small4.tokenizer.truncate import SPECIAL_TOKENS, dump_tekken, main, nano_tekken


def test_shipped_file_is_what_the_command_writes(tmp_path: Path, nano_file: Path) -> None:
    main([str(tmp_path / "tekken.json")])
    assert (tmp_path / "tekken.json").read_bytes() == nano_file.read_bytes()


def test_mistral_common_loads_the_shipped_file(nano_file: Path) -> None:
    tekken = Tekkenizer.from_file(nano_file)
    assert (tekken.n_words, tekken.num_special_tokens, tekken.version.value) == (3072, 1000, "v15")


def test_special_tokens_keep_their_ids(nano: Tokenizer) -> None:
    assert all(nano.special_id(name) == token for token, name in SPECIAL_TOKENS.items())


def test_truncation_is_the_exact_shorter_tokenizer(nano: Tokenizer, release: Tokenizer) -> None:
    # Whatever the full vocabulary writes in low ranks only, the short one writes the same way.
    for text in ("What is 17+48+36+25?", "the sum of two numbers", "a b c\n\n12"):
        full = release.encode_text(text)
        assert max(full) >= nano.vocab_size or nano.encode_text(text) == full
        assert release.decode(nano.encode_text(text)) == text


def test_image_section_is_a_parameter(tmp_path: Path) -> None:
    path = tmp_path / "tekken.json"
    main([str(path), "--num-ranks", "300", "--patch-size", "8", "--max-image-size", "128"])
    assert Tokenizer.from_file(path).image_grid == ImageGrid(patch_size=8, max_image_size=128, spatial_merge_size=2)
    path.write_text(dump_tekken(nano_tekken(256, None)), encoding="utf-8")
    assert Tokenizer.from_file(path).image_grid is None


@pytest.mark.parametrize("num_ranks", [255, 150_001])
def test_impossible_length_is_refused_with_the_range(num_ranks: int) -> None:
    with pytest.raises(ConfigError, match=r"256 .* to 150000"):
        nano_tekken(num_ranks)
