"""A tekken.json as the tokenizer keys of a GGUF file: a byte-level BPE in the spelling of GPT-2, split as `tekken`.

Tekken merges whatever two neighbours make the token of lowest rank. GGUF wants a list of merges, the first being the
most urgent: so for each token in rank order, every way to cut it into two tokens, by the ranks of the two.
"""

import base64
import binascii
import json
from pathlib import Path

from small4.errors import SaveError

MAX_TEKKEN_BYTES = 64 * 1024 * 1024
NORMAL, CONTROL, UNUSED = 1, 3, 5  # GGUF's token types
SPECIAL_IDS = {"bos": "<s>", "eos": "</s>", "unknown": "<unk>", "padding": "<pad>"}


def tokenizer_keys(tekken: Path, vocab_size: int) -> dict[str, str | bool | int | list[str] | list[int]]:
    """Keys of the vocabulary, filled up with unused tokens to `vocab_size`."""
    specials, tokens = _read(tekken)
    if len(specials) + len(tokens) > vocab_size:
        raise SaveError(f"{tekken} has {len(specials) + len(tokens)} tokens, the model has {vocab_size}; give its own")
    num_unused = vocab_size - len(specials) - len(tokens)
    keys: dict[str, str | bool | int | list[str] | list[int]] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "tekken",
        "tokenizer.ggml.tokens": [
            *specials, *map(spell, tokens), *(f"[PAD{vocab_size - num_unused + k}]" for k in range(num_unused))
        ],
        "tokenizer.ggml.token_type": [CONTROL] * len(specials) + [NORMAL] * len(tokens) + [UNUSED] * num_unused,
        "tokenizer.ggml.merges": [f"{spell(left)} {spell(right)}" for left, right in merges(tokens)],
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_eos_token": False,
        "tokenizer.ggml.add_space_prefix": False,
    }  # fmt: skip
    for name, special in SPECIAL_IDS.items():
        if special in specials:
            keys[f"tokenizer.ggml.{name}_token_id"] = specials.index(special)
    return keys


def merges(tokens: list[bytes]) -> list[tuple[bytes, bytes]]:
    """Every pair of tokens that makes a token, in order of the rank of what it makes."""
    ranks = {token: rank for rank, token in enumerate(tokens)}
    found = []
    for token in tokens:
        cuts = [(token[:at], token[at:]) for at in range(1, len(token))]
        pairs = [(left, right) for left, right in cuts if left in ranks and right in ranks]
        found += sorted(pairs, key=lambda pair: (ranks[pair[0]], ranks[pair[1]]))
    return found


def spell(token: bytes) -> str:
    """Bytes as GPT-2 writes them: printable Latin-1 as it is, the others as the letters from U+0100 on."""
    return "".join(map(_LETTERS.__getitem__, token))


def _letters() -> list[str]:
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


_LETTERS = _letters()


def _read(tekken: Path) -> tuple[list[str], list[bytes]]:
    """Names of the special tokens, fillers included, and the bytes of the others in rank order."""
    try:
        if tekken.stat().st_size > MAX_TEKKEN_BYTES:
            raise SaveError(f"{tekken} is larger than {MAX_TEKKEN_BYTES} bytes; it cannot be a tekken.json")
        content = json.loads(tekken.read_text(encoding="utf-8"))
        config = content["config"]
        num_special = int(config["default_num_special_tokens"])
        count = int(config["default_vocab_size"]) - num_special
        specials = [f"<SPECIAL_{number}>" for number in range(num_special)]
        for special in content["special_tokens"]:
            specials[special["rank"]] = special["token_str"]
        vocab = sorted(content["vocab"], key=lambda entry: int(entry["rank"]))[:count]
        return specials, [base64.b64decode(entry["token_bytes"], validate=True) for entry in vocab]
    except (OSError, ValueError, KeyError, IndexError, TypeError, binascii.Error) as error:
        raise SaveError(f"{tekken} is not a tekken.json ({error!r}); the GGUF file was not written") from error
