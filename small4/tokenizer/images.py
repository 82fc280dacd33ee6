"""Encoded images to the pixel arrays that the vision tower takes.

What a file claims is checked before anything is decoded: kind by its first bytes, size in bytes, then width and height
from the header. What remains is turned upright (EXIF), flattened over white, scaled to whole tokens and normalised
(model specification 3).
"""

from dataclasses import dataclass
from io import BytesIO

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from small4.errors import ImageError

MAX_FILE_BYTES = 10 * 2**20
MAX_PIXELS = 33_000_000  # scaling takes 16 bytes of memory for each
MAX_SIDE = 16_384  # pixels
MAX_ASPECT_RATIO = 200  # longer side over shorter side

_CHANNEL_MEAN = (0.48145466, 0.4578275, 0.40821073)  # red, green, blue of values in 0 to 1
_CHANNEL_STD = (0.26862954, 0.26130258, 0.27577711)

_READABLE = "PNG, JPEG, WebP and GIF with one frame"
_SNIFFED_BYTES = 1024
_OTHER_KINDS = {
    b"%PDF": "a PDF",
    b"II*\x00": "a TIFF image",
    b"MM\x00*": "a TIFF image",
    b"BM": "a BMP image",
    b"\x00\x00\x01\x00": "an icon file",
    b"%!PS": "a PostScript file",
}
_MODES = ("RGB", "RGBA", "RGBX", "L", "LA", "P", "PA", "1", "I;16", "I;16B", "I;16L")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageGrid:
    """How this vocabulary's model cuts an image into tokens."""

    patch_size: int = 14  # pixels
    max_image_size: int = 1540  # pixels; longer sides are scaled down to it
    spatial_merge_size: int = 2  # patches per side that make one token

    @property
    def token_size(self) -> int:
        """Pixels per side of one image token."""
        return self.patch_size * self.spatial_merge_size

    def num_tokens(self, width: int, height: int) -> tuple[int, int]:
        """Columns and rows of tokens that an image of this size becomes, row ends not counted."""
        ratio = max(height / self.max_image_size, width / self.max_image_size)
        if ratio > 1:
            width, height = max(round(width / ratio), 1), max(round(height / ratio), 1)
        return (width - 1) // self.token_size + 1, (height - 1) // self.token_size + 1


def prepare_image(data: bytes, grid: ImageGrid) -> npt.NDArray[np.float32]:
    """Normalised pixels [3, height, width] of an encoded image, both sides whole tokens."""
    image = decode_image(data)
    columns, rows = grid.num_tokens(*image.size)
    size = (columns * grid.token_size, rows * grid.token_size)
    pixels = cv2.resize(np.array(image, np.float32), size, interpolation=cv2.INTER_CUBIC) / np.float32(255)
    normalised = (pixels - np.array(_CHANNEL_MEAN, np.float32)) / np.array(_CHANNEL_STD, np.float32)
    return np.ascontiguousarray(normalised.transpose(2, 0, 1))


def decode_image(data: bytes) -> Image.Image:
    """The upright RGB image, or an `ImageError` with the limit and the way out."""
    kind = check_file(data)
    if kind == "WEBP":
        _check_size(*_webp_size(data))  # its decoder takes memory for the whole canvas when it opens the file
    try:
        with Image.open(BytesIO(data), formats=[kind]) as image:
            _check_size(*image.size)
            _check_content(image, data)
            image.load()
            return _flatten(ImageOps.exif_transpose(image))
    except (ImageError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(f"the image has more than the {MAX_PIXELS} pixels allowed; scale it down") from error
    except Exception as error:  # a decoder meets broken files with many kinds of exception
        raise ImageError(f"the {kind} image is corrupt and cannot be decoded; export it again") from error


def check_file(data: bytes) -> str:
    """Pillow's name of the format, after what can be checked without a decoder."""
    kind = _kind(data)
    if len(data) > MAX_FILE_BYTES:
        raise ImageError(f"the image has {len(data)} bytes, the limit is {MAX_FILE_BYTES}; send a smaller file")
    return kind


def _kind(data: bytes) -> str:
    """Pillow's name of the format that the first bytes announce."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if not data:
        raise ImageError("the image is empty; send the bytes of a file")
    found = next((name for magic, name in _OTHER_KINDS.items() if data.startswith(magic)), None)
    if b"<svg" in data[:_SNIFFED_BYTES].lower():
        found = "an SVG drawing"
    elif data[4:8] == b"ftyp":
        found = "a HEIC or AVIF image"
    raise ImageError(f"the image is {found or 'of an unknown kind'}; readable are {_READABLE}, convert it to PNG")


def _webp_size(data: bytes) -> tuple[int, int]:
    """Canvas of a WebP file from its first chunk."""
    chunk = data[12:16]
    if chunk == b"VP8X" and len(data) >= 30:
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    if chunk == b"VP8L" and len(data) >= 25:
        bits = int.from_bytes(data[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if chunk == b"VP8 " and len(data) >= 30:
        return int.from_bytes(data[26:28], "little") & 0x3FFF, int.from_bytes(data[28:30], "little") & 0x3FFF
    raise ImageError("the WEBP image is corrupt and cannot be decoded; export it again")


def _check_size(width: int, height: int) -> None:
    if width < 1 or height < 1:
        raise ImageError(f"the image has no pixels ({width} x {height}); send one of at least 1 x 1")
    found = f"the image has {width} x {height} pixels"
    if width * height > MAX_PIXELS:
        raise ImageError(f"{found}, the limit is {MAX_PIXELS} in all; scale it down")
    if max(width, height) > MAX_SIDE:
        raise ImageError(f"{found}, the limit is {MAX_SIDE} per side; scale it down")
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        raise ImageError(f"{found}, one side may be at most {MAX_ASPECT_RATIO} times the other; crop or split it")


def _check_content(image: Image.Image, data: bytes) -> None:
    # A photograph in a multi-picture JPEG carries a preview as its second picture; the first is the photograph.
    if getattr(image, "is_animated", False) and image.format != "MPO":
        raise ImageError(f"the {image.format} image is animated, only one frame can be read; send a single frame")
    if image.mode == "CMYK":
        raise ImageError("the image is in print colours (CMYK), which have no single RGB value; save it as RGB")
    if image.mode not in _MODES:
        raise ImageError(f"the image has the pixel format {image.mode}; save it as 8-bit RGB")
    if image.format == "PNG" and data[24] == 16 and "transparency" in image.info:
        raise ImageError("the image has 16 bits per channel and a transparent colour; save it as 8-bit RGBA")


def _flatten(image: Image.Image) -> Image.Image:
    """The image in 8-bit RGB, over white where it is transparent."""
    if image.mode.startswith("I;16"):
        # Pillow would clip at 255; of 16-bit colour it takes the high byte, so this does too.
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGB", "RGBX", "L", "1") and "transparency" not in image.info:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    white = Image.new("RGBA", layer.size, "WHITE")
    white.paste(layer, (0, 0), layer)
    return white.convert("RGB")
