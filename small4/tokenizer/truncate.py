"""Cuts the full Tekken vocabulary down to its first ranks: the tokenizer file that the nano ships.

A byte-level BPE vocabulary is a list of merges in the order they were learned, so its first R entries are exactly the
tokenizer that training would have stopped at. Special tokens keep the ids of the real model, and the kept pieces do
too (id = rank + 1000): templates, parsers and token ids carry over from the nano to Mistral Small 4.

`python -m small4.tokenizer.truncate OUT` writes `small4/nano/tekken.json` again.
"""

import argparse
import json
from importlib.resources import files
from pathlib import Path
from typing import Any, Protocol

from small4.errors import ConfigError
from small4.tokenizer.images import ImageGrid

NUM_SPECIAL_TOKENS = 1000  # ids 0 to 999; a piece's id is its rank plus this
NUM_NANO_RANKS = 2072  # with the special tokens: a vocabulary of 3072
RELEASE_GRID = ImageGrid()  # patch 14, at most 1540 pixels, 2 x 2 patches per token

# Model specification 5.1. Ids without a name stay fillers.
SPECIAL_TOKENS: dict[int, str] = {
    0: "<unk>",
    1: "<s>",
    2: "</s>",
    3: "[INST]",
    4: "[/INST]",
    5: "[AVAILABLE_TOOLS]",
    6: "[/AVAILABLE_TOOLS]",
    7: "[TOOL_RESULTS]",
    8: "[/TOOL_RESULTS]",
    9: "[TOOL_CALLS]",
    10: "[IMG]",
    11: "<pad>",
    12: "[IMG_BREAK]",
    13: "[IMG_END]",
    14: "[PREFIX]",
    15: "[MIDDLE]",
    16: "[SUFFIX]",
    17: "[SYSTEM_PROMPT]",
    18: "[/SYSTEM_PROMPT]",
    19: "[TOOL_CONTENT]",
    24: "[AUDIO]",
    25: "[BEGIN_AUDIO]",
    32: "[ARGS]",
    33: "[CALL_ID]",
    34: "[THINK]",
    35: "[/THINK]",
    36: "[MODEL_SETTINGS]",
    37: "[/MODEL_SETTINGS]",
}

_BUNDLED_VOCABULARY = "tekken_240911.json"  # in mistral-common: 150000 ranks, version 3, no model settings
_NUM_BYTES = 256  # the first ranks are the single bytes


class ImageGeometry(Protocol):
    """What the tokenizer file says about images; `VisionConfig` has these fields."""

    @property
    def patch_size(self) -> int: ...
    @property
    def max_image_size(self) -> int: ...
    @property
    def spatial_merge_size(self) -> int: ...


def nano_tekken(
    num_ranks: int = NUM_NANO_RANKS,
    vision: ImageGeometry | None = RELEASE_GRID,
) -> dict[str, Any]:
    """Content of a v15 `tekken.json` with the first `num_ranks` pieces; `vision=None` leaves images out."""
    source = json.loads((files("mistral_common") / "data" / _BUNDLED_VOCABULARY).read_text(encoding="utf-8"))
    if not _NUM_BYTES <= num_ranks <= len(source["vocab"]):
        raise ConfigError(
            f"num_ranks is {num_ranks}; it must lie in {_NUM_BYTES} (the single bytes) to {len(source['vocab'])}"
        )
    content: dict[str, Any] = {
        "config": {
            "pattern": source["config"]["pattern"],
            "num_vocab_tokens": num_ranks,
            "default_vocab_size": num_ranks + NUM_SPECIAL_TOKENS,
            "default_num_special_tokens": NUM_SPECIAL_TOKENS,
            "version": "v15",
        },
        # The text of a piece is its bytes decoded; leaving it out makes the file a third smaller.
        "vocab": [
            {"rank": piece["rank"], "token_bytes": piece["token_bytes"], "token_str": None}
            for piece in source["vocab"][:num_ranks]
        ],
        "special_tokens": [
            {"rank": rank, "token_str": SPECIAL_TOKENS.get(rank, f"<SPECIAL_{rank}>"), "is_control": True}
            for rank in range(max(SPECIAL_TOKENS) + 1)
        ],
        "model_settings_builder": {
            "reasoning_effort": {"type": "enum", "values": ["none", "high"], "accepts_none": True, "default": "none"}
        },
    }
    if vision is not None:
        content["image"] = {
            "image_patch_size": vision.patch_size,
            "max_image_size": vision.max_image_size,
            "spatial_merge_size": vision.spatial_merge_size,
        }
    return content


def dump_tekken(content: dict[str, Any]) -> str:
    """The file's text: no spaces, and one piece per line, so that a change shows as a short diff."""
    sections = [
        f"{json.dumps(name)}:{_dump_list(value) if isinstance(value, list) else _dump(value)}"
        for name, value in content.items()
    ]
    return "{" + ",\n".join(sections) + "}\n"


def _dump_list(entries: list[Any]) -> str:
    return "[\n" + ",\n".join(map(_dump, entries)) + "]"


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def main(arguments: list[str] | None = None) -> None:
    """Writes the file that the command line names."""
    parser = argparse.ArgumentParser(description="write a truncated tekken.json")
    parser.add_argument("out", type=Path)
    parser.add_argument("--num-ranks", type=int, default=NUM_NANO_RANKS)
    parser.add_argument("--patch-size", type=int, default=RELEASE_GRID.patch_size)
    parser.add_argument("--max-image-size", type=int, default=RELEASE_GRID.max_image_size)
    parser.add_argument("--spatial-merge-size", type=int, default=RELEASE_GRID.spatial_merge_size)
    options = parser.parse_args(arguments)
    grid = ImageGrid(
        patch_size=options.patch_size,
        max_image_size=options.max_image_size,
        spatial_merge_size=options.spatial_merge_size,
    )
    options.out.write_text(dump_tekken(nano_tekken(options.num_ranks, grid)), encoding="utf-8")


if __name__ == "__main__":
    main()
