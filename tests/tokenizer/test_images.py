"""Images: token counts and pixels of the specification, and a typed refusal for everything else."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from small4.errors import ImageError
from small4.tokenizer import images
from small4.tokenizer.images import ImageGrid, decode_image, prepare_image

GRID = ImageGrid()
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 128, 0), (0, 0, 255), (255, 255, 255)


def encode(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def pixels_of(data: bytes) -> npt.NDArray[np.uint8]:
    return np.asarray(decode_image(data))


def noise(width: int, height: int) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def png_chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png_header(width: int, height: int, depth: int = 8, colour: int = 2) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header)


@pytest.mark.parametrize(
    ("size", "columns", "rows", "num_all"),
    [
        ((1540, 1540), 55, 55, 3080),
        ((4000, 3000), 55, 42, 2352),
        ((1024, 768), 37, 28, 1064),
        ((640, 480), 23, 18, 432),
        ((512, 512), 19, 19, 380),
        ((100, 61), 4, 3, 15),
        ((1, 1), 1, 1, 2),
        ((16_000, 80), 55, 1, 56),
    ],
)
def test_token_counts_are_those_of_the_specification(
    size: tuple[int, int], columns: int, rows: int, num_all: int
) -> None:
    assert GRID.num_tokens(*size) == (columns, rows)
    assert (columns + 1) * rows == num_all


def test_nano_geometry_cuts_other_tokens() -> None:
    grid = ImageGrid(patch_size=8, max_image_size=128, spatial_merge_size=2)
    assert grid.num_tokens(256, 128) == (8, 4)
    assert prepare_image(encode(noise(256, 128)), grid).shape == (3, 64, 128)


def test_white_has_the_values_of_the_normalisation() -> None:
    pixels = prepare_image(encode(Image.new("RGB", (28, 28), "white")), GRID)
    mean = np.array([0.48145466, 0.4578275, 0.40821073])
    std = np.array([0.26862954, 0.26130258, 0.27577711])
    assert pixels.dtype == np.float32
    assert pixels.flags.c_contiguous
    np.testing.assert_allclose(pixels, np.broadcast_to(((1 - mean) / std)[:, None, None], (3, 28, 28)), rtol=1e-6)


def test_one_pixel_becomes_one_token() -> None:
    pixels = prepare_image(encode(Image.new("RGB", (1, 1), RED)), GRID)
    assert pixels.shape == (3, 28, 28)
    np.testing.assert_allclose(np.ptp(pixels, axis=(1, 2)), 0, atol=1e-6)


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True}), ("GIF", {})])
@pytest.mark.parametrize("size", [(1, 1), (7, 3), (40, 60)])
def test_lossless_kinds_decode_exactly(kind: str, options: dict[str, Any], size: tuple[int, int]) -> None:
    image = Image.new("RGB", size, BLUE)
    image.putpixel((0, 0), RED)
    assert np.array_equal(pixels_of(encode(image, kind, **options)), np.asarray(image))


def test_jpeg_and_lossy_webp_decode_closely() -> None:
    image = Image.new("RGB", (40, 60), (200, 100, 50))
    for kind in ("JPEG", "WEBP"):
        assert np.abs(pixels_of(encode(image, kind, quality=95)).astype(int) - np.asarray(image)).max() <= 4


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_every_png_mode_keeps_black_and_white(mode: str) -> None:
    image = Image.new("L", (2, 1))
    image.putpixel((1, 0), 255)
    assert pixels_of(encode(image.convert(mode))).tolist() == [[[0, 0, 0], [255, 255, 255]]]


def test_transparent_pixels_show_white() -> None:
    layer = Image.new("RGBA", (2, 1), (*RED, 255))
    layer.putpixel((1, 0), (*RED, 0))
    assert pixels_of(encode(layer)).tolist() == [[list(RED), list(WHITE)]]
    assert pixels_of(encode(layer, "WEBP", lossless=True, exact=True)).tolist() == [[list(RED), list(WHITE)]]


def test_half_transparent_red_is_pink() -> None:
    assert pixels_of(encode(Image.new("RGBA", (1, 1), (*RED, 128)))).tolist() == [[[255, 127, 127]]]


@pytest.mark.parametrize(("mode", "colour"), [("RGB", RED), ("L", 7), ("P", 1)])
def test_colour_declared_transparent_shows_white(mode: str, colour: Any) -> None:
    image = Image.new(mode, (1, 1), colour)
    if mode == "P":
        image.putpalette([*BLUE, *RED])
    assert pixels_of(encode(image, transparency=colour)).tolist() == [[list(WHITE)]]


def test_gray_of_16_bits_takes_the_high_byte() -> None:
    values = np.array([[0x0000, 0x00FF, 0x0100, 0x7FFF, 0xFFFF]], dtype=np.uint16)
    assert pixels_of(encode(Image.fromarray(values)))[0, :, 0].tolist() == [0, 0, 1, 127, 255]


def test_colour_of_16_bits_takes_the_high_byte() -> None:
    row = b"\x00" + struct.pack(">6H", 0x0000, 0x01FF, 0x7FFF, 0x8000, 0xFF00, 0xFFFF)
    data = png_header(2, 1, depth=16) + png_chunk(b"IDAT", zlib.compress(row)) + png_chunk(b"IEND", b"")
    assert pixels_of(data).tolist() == [[[0, 1, 127], [128, 255, 255]]]


def test_16_bits_with_a_transparent_colour_are_refused() -> None:
    row = b"\x00" + struct.pack(">3H", 1, 2, 3)
    body = png_chunk(b"tRNS", struct.pack(">3H", 1, 2, 3)) + png_chunk(b"IDAT", zlib.compress(row))
    with pytest.raises(ImageError, match="save it as 8-bit RGBA"):
        decode_image(png_header(1, 1, depth=16) + body + png_chunk(b"IEND", b""))


def upright() -> Image.Image:
    """Three by two blocks of 16 pixels, red in the corner at the upper left, blue to its right."""
    image = Image.new("RGB", (48, 32), GREEN)
    image.paste(RED, (0, 0, 16, 16))
    image.paste(BLUE, (16, 0, 32, 16))
    return image


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize(
    ("orientation", "undo"),
    [
        (1, None),
        (2, Image.Transpose.FLIP_LEFT_RIGHT),
        (3, Image.Transpose.ROTATE_180),
        (4, Image.Transpose.FLIP_TOP_BOTTOM),
        (5, Image.Transpose.TRANSPOSE),
        (6, Image.Transpose.ROTATE_90),
        (7, Image.Transpose.TRANSVERSE),
        (8, Image.Transpose.ROTATE_270),
    ],
)
def test_exif_orientation_is_applied(kind: str, orientation: int, undo: Image.Transpose | None) -> None:
    stored = upright() if undo is None else upright().transpose(undo)
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = pixels_of(encode(stored, kind, exif=exif, quality=100))
    assert found.shape == (32, 48, 3)
    assert np.abs(found.astype(int) - np.asarray(upright())).mean() < 10  # lossy kinds blur the borders


def test_orientation_changes_the_token_grid() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert prepare_image(encode(noise(56, 28), exif=exif), GRID).shape == (3, 56, 28)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_animation_is_refused(kind: str) -> None:
    data = encode(noise(8, 8), kind, save_all=True, append_images=[upright().resize((8, 8))])
    with pytest.raises(ImageError, match=rf"the {kind} image is animated, only one frame.*send a single frame"):
        decode_image(data)


def test_photograph_with_a_preview_is_read() -> None:
    # Telephones store a second picture behind the first; Pillow calls such a file animated.
    data = encode(noise(32, 16), "MPO", save_all=True, append_images=[noise(8, 8)])
    assert decode_image(data).size == (32, 16)


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b'<svg xmlns="http://www.w3.org/2000/svg" width="1" height="1"/>', "an SVG drawing"),
        (b'<?xml version="1.0"?>\n<!-- x -->\n<SVG/>', "an SVG drawing"),
        (b"%PDF-1.7", "a PDF"),
        (encode(noise(2, 2), "TIFF"), "a TIFF image"),
        (encode(noise(2, 2), "BMP"), "a BMP image"),
        (encode(noise(16, 16), "ICO"), "an icon file"),
        (b"\x00\x00\x00\x18ftypheic", "a HEIC or AVIF image"),
        (b"%!PS-Adobe", "a PostScript file"),
        (b"hello", "of an unknown kind"),
    ],
)
def test_other_kinds_are_refused_by_name(data: bytes, found: str) -> None:
    with pytest.raises(ImageError, match=f"{found}; readable are PNG, JPEG, WebP and GIF.*convert it to PNG"):
        decode_image(data)


def test_empty_file_is_refused() -> None:
    with pytest.raises(ImageError, match="empty"):
        decode_image(b"")


def test_print_colours_are_refused() -> None:
    with pytest.raises(ImageError, match=r"print colours \(CMYK\).*save it as RGB"):
        decode_image(encode(Image.new("CMYK", (8, 8)), "JPEG"))


def test_file_over_the_byte_limit_is_refused_with_both_numbers() -> None:
    data = encode(noise(2, 2)) + b"\x00" * images.MAX_FILE_BYTES
    with pytest.raises(ImageError, match=f"has {len(data)} bytes, the limit is {images.MAX_FILE_BYTES}"):
        decode_image(data)


def webp_header(width: int, height: int) -> bytes:
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    chunk = b"VP8X" + struct.pack("<I", 10) + b"\x00\x00\x00\x00" + size
    return b"RIFF" + struct.pack("<I", len(chunk) + 4) + b"WEBP" + chunk


def gif_header(width: int, height: int) -> bytes:
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00"
    return b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + b"\x00\x00\x00\xff\xff\xff" + frame + b"\x3b"


def jpeg_header(width: int, height: int) -> bytes:
    data = encode(noise(8, 8), "JPEG")
    start = data.index(b"\xff\xc0") + 5
    return data[:start] + struct.pack(">HH", height, width) + data[start + 4 :]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (png_header(6000, 6000) + png_chunk(b"IDAT", b""), "6000 x 6000 pixels, the limit is 33000000 in all"),
        (png_header(2**31 - 1, 2**31 - 1) + png_chunk(b"IDAT", b""), "pixels"),
        (png_header(20_000, 200) + png_chunk(b"IDAT", b""), "20000 x 200 pixels, the limit is 16384 per side"),
        (png_header(10_000, 40) + png_chunk(b"IDAT", b""), "10000 x 40 pixels, one side may be at most 200 times"),
        (webp_header(16_383, 16_383), "16383 x 16383 pixels, the limit is 33000000 in all"),
        (gif_header(65_535, 65_535), "pixels"),
        (gif_header(8_000, 8_000), "8000 x 8000 pixels, the limit is 33000000 in all"),
        (jpeg_header(65_000, 65_000), "pixels"),
        (jpeg_header(8_000, 8_000), "8000 x 8000 pixels, the limit is 33000000 in all"),
    ],
)
def test_claimed_size_is_refused_before_decoding(data: bytes, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        decode_image(data)


def test_image_without_pixels_is_refused() -> None:
    with pytest.raises(ImageError):
        decode_image(png_header(0, 5) + png_chunk(b"IDAT", b""))


WHOLE = {
    "PNG": encode(noise(20, 20)),
    "JPEG": encode(noise(20, 20), "JPEG"),
    "WEBP": encode(noise(20, 20), "WEBP"),
    "WEBP lossless": encode(noise(20, 20), "WEBP", lossless=True),
    "GIF": encode(noise(20, 20), "GIF"),
}


@pytest.mark.parametrize("kind", WHOLE)
def test_half_a_file_is_refused(kind: str) -> None:
    with pytest.raises(ImageError, match="corrupt and cannot be decoded; export it again"):
        decode_image(WHOLE[kind][: len(WHOLE[kind]) // 2])


@given(kind=st.sampled_from(sorted(WHOLE)), share=st.floats(0, 1, exclude_max=True))
def test_cut_file_is_an_image_error_or_a_whole_image(kind: str, share: float) -> None:
    whole = WHOLE[kind]
    try:
        image = decode_image(whole[: int(share * len(whole))])
    except ImageError:
        return
    assert image.size == (20, 20)


@given(
    kind=st.sampled_from(sorted(WHOLE)),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=6),
)
def test_damaged_file_is_an_image_error_or_an_image(kind: str, changes: list[tuple[float, int]]) -> None:
    data = bytearray(WHOLE[kind])
    for share, value in changes:
        data[int(share * len(data))] = value
    try:
        image = decode_image(bytes(data))
    except ImageError:
        return
    assert image.mode == "RGB"
