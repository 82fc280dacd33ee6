"""The process that decodes images, so that one that takes too much ends a fork of it and nothing else.

Started by `isolated_images.py` as a `Child` of `isolation.py`. A question is a line with the size of a file, the grid
and the limits, and then the file; its answer has the pixels with their shape, or what is wrong with the image.
"""

import json
import sys
from collections.abc import Mapping
from functools import partial
from typing import Any

import cv2
from PIL import Image

from small4.errors import ImageError
from small4.isolation import be_ready, say_from_fork
from small4.tokenizer.images import ImageGrid, prepare_image


def main() -> None:
    """Answers until the input ends."""
    Image.init()  # every fork would load the formats anew
    cv2.setNumThreads(1)  # threads would take memory of their own in each fork
    be_ready()
    while line := sys.stdin.buffer.readline():
        question = json.loads(line)
        data = sys.stdin.buffer.read(question["size"])
        say_from_fork(
            partial(_pixels, data, ImageGrid(**question["grid"])),
            question["seconds"],
            question["bytes"],
        )


def _pixels(data: bytes, grid: ImageGrid) -> tuple[Mapping[str, Any], bytes | memoryview]:
    try:
        pixels = prepare_image(data, grid)
    except ImageError as error:
        return {"error": str(error)}, b""
    return {"shape": pixels.shape}, pixels.data.cast("B")


if __name__ == "__main__":
    main()
