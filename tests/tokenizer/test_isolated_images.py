"""Images in processes of their own: the same pixels and errors as here, and nothing that one does reaches further."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from small4.errors import BusyError, ImageError
from small4.isolation import Child
from small4.tokenizer.images import ImageGrid, prepare_image
from small4.tokenizer.isolated_images import ImageLimits, IsolatedImages
from tests.tokenizer.bombs import progressive_bomb

GRID = ImageGrid(patch_size=8, max_image_size=128)
TIGHT = ImageLimits(max_seconds=0.25, max_bytes=64 * 2**20, num_processes=1)


@pytest.fixture(scope="module")
def isolated() -> Iterator[IsolatedImages]:
    images = IsolatedImages()
    yield images
    images.close()


@pytest.fixture(scope="module")
def tight() -> Iterator[IsolatedImages]:
    images = IsolatedImages(TIGHT)
    yield images
    images.close()


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 4), dtype=np.uint8))


GOOD = {
    "png": encode(noise(70, 33), "PNG"),
    "jpeg": encode(noise(300, 500).convert("RGB"), "JPEG"),
    "webp": encode(noise(64, 200), "WEBP", lossless=True),
    "gif": encode(noise(5, 1).convert("P"), "GIF"),
    "gray of 16 bits": encode(Image.new("I;16", (9, 9), 40_000), "PNG"),
}
BAD = {
    "cut": GOOD["png"][:-400],
    "empty": b"",
    "pdf": b"%PDF-1.7",
    "animated": encode(noise(8, 8), "GIF", save_all=True, append_images=[noise(8, 8).rotate(90)]),
    "long": encode(Image.new("L", (1, 1000)), "PNG"),
}


@pytest.mark.parametrize("data", GOOD.values(), ids=GOOD)
@pytest.mark.parametrize("grid", [GRID, ImageGrid()], ids=["nano", "release"])
def test_pixels_are_those_of_the_definition_and_may_be_written(isolated, data, grid):
    pixels = isolated.prepare(data, grid)
    assert pixels.dtype == np.float32
    assert np.array_equal(pixels, prepare_image(data, grid))
    assert pixels.flags.writeable  # torch takes no others


@pytest.mark.parametrize("data", BAD.values(), ids=BAD)
def test_errors_are_those_of_the_definition(isolated, data):
    with pytest.raises(ImageError) as here:
        prepare_image(data, GRID)
    with pytest.raises(ImageError) as there:
        isolated.prepare(data, GRID)
    assert str(there.value) == str(here.value)


def process_ids(images: IsolatedImages) -> set[int | None]:
    return {child.process_id for child in images.children}


def test_a_bomb_ends_its_fork_after_its_time_and_the_process_goes_on(tight):
    tight.prepare(GOOD["png"], GRID)
    running, start = process_ids(tight), time.monotonic()
    with pytest.raises(ImageError, match=r"takes more than 0\.25 s or 64 MiB to decode; scale it down"):
        tight.prepare(progressive_bomb(1600, 4000), GRID)  # seven seconds, in a file of 170 kB
    assert time.monotonic() - start < 20
    assert np.array_equal(tight.prepare(GOOD["png"], GRID), prepare_image(GOOD["png"], GRID))
    assert process_ids(tight) == running


def test_what_takes_more_memory_ends_its_fork_and_the_process_goes_on(tight):
    running = process_ids(tight)
    with pytest.raises(ImageError, match="or 64 MiB to decode"):
        tight.prepare(encode(Image.new("RGB", (5000, 5000)), "PNG", compress_level=1), GRID)
    assert np.array_equal(tight.prepare(GOOD["webp"], GRID), prepare_image(GOOD["webp"], GRID))
    assert process_ids(tight) == running


def test_a_fork_that_the_system_kills_ends_its_process_which_is_replaced():
    images = IsolatedImages(ImageLimits(num_processes=1))
    images.prepare(GOOD["png"], GRID)
    (first,) = process_ids(images)
    with ThreadPoolExecutor(1) as pool:
        bombed = pool.submit(images.prepare, progressive_bomb(1600, 4000), GRID)
        os.kill(fork_of(first), signal.SIGKILL)
        with pytest.raises(ImageError, match="to decode"):
            bombed.result()
    assert images.prepare(GOOD["png"], GRID).shape
    assert process_ids(images).isdisjoint({None, first})
    images.close()
    assert process_ids(images) == {None}


def fork_of(process_id: int) -> int:
    """The one child of a process, as soon as it has one."""
    deadline = time.monotonic() + 20
    while not (ids := Path(f"/proc/{process_id}/task/{process_id}/children").read_text().split()):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return int(ids[0])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_processes_of_a_service_takes_no_image_from_whoever_is_still_answered(tight, number):
    tight.prepare(GOOD["png"], GRID)
    (running,) = process_ids(tight)
    os.kill(running, number)
    assert np.array_equal(tight.prepare(GOOD["png"], GRID), prepare_image(GOOD["png"], GRID))
    assert process_ids(tight) == {running}


def test_a_process_ends_with_whoever_asks():
    program = f"""
import sys
from small4.tokenizer.images import ImageGrid
from small4.tokenizer.isolated_images import IsolatedImages
images = IsolatedImages()
images.prepare(bytes.fromhex("{GOOD["gif"].hex()}"), ImageGrid())
print(*(child.process_id for child in images.children if child.process_id), flush=True)
sys.stdin.read()
"""
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as asking:
        process_id = int(asking.stdout.readline())
        asking.kill()
    deadline = time.monotonic() + 20
    while Path(f"/proc/{process_id}/cmdline").is_file() and Path(f"/proc/{process_id}/cmdline").read_bytes():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_process_that_died_is_replaced(tight):
    tight.prepare(GOOD["png"], GRID)
    (first,) = process_ids(tight)
    os.kill(first, 9)
    os.waitid(os.P_PID, first, os.WEXITED | os.WNOWAIT)
    tight.prepare(GOOD["png"], GRID)
    assert process_ids(tight).isdisjoint({None, first})


def test_many_threads_share_the_processes(isolated):
    with ThreadPoolExecutor(6) as pool:
        prepared = list(pool.map(isolated.prepare, [*GOOD.values()] * 6, [GRID] * 30))
    for data, pixels in zip([*GOOD.values()] * 6, prepared, strict=True):
        assert np.array_equal(pixels, prepare_image(data, GRID))
    assert len(process_ids(isolated) - {None}) <= isolated.limits.num_processes


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG", "GIF"])
def test_the_largest_images_that_are_allowed_fit_the_limits(isolated, kind):
    image = Image.new("RGB" if kind == "JPEG" else "P" if kind == "GIF" else "RGBA", (5744, 5744))
    assert isolated.prepare(encode(image, kind, lossless=True), GRID).shape == (3, 128, 128)


def test_a_process_that_cannot_start_is_no_fault_of_the_image():
    child = Child("small4.no_such_module", tuple, 30.0)
    with pytest.raises(BusyError, match="did not start"):
        child.ask([], 1.0)
