"""The published sizes of the release, computed by our own writer's planning; nothing is written."""

import dataclasses
import math

import pytest

from small4.checkpoint.blank import parameter_shapes
from small4.checkpoint.describe import active_parameters, parameters_by_component
from small4.checkpoint.encode import file_layout, total_bytes
from small4.checkpoint.save import file_sizes
from small4.model.config import DraftConfig, ModelConfig

RELEASE = ModelConfig()
EAGLE = DraftConfig(text=ModelConfig(n_layers=2, moe=None, vision=None))


def test_the_model_has_the_published_number_of_parameters():
    assert sum(math.prod(shape) for shape in parameter_shapes(RELEASE).values()) == 119_401_298_944
    assert active_parameters(RELEASE) == 5_558_846_464
    components = parameters_by_component(RELEASE)
    assert components["vision"] == 403_305_472
    assert components["projector"] == 25_166_848


def test_fp8_files_have_the_published_elements_and_bytes_to_the_last():
    tensors = [tensor for parts in file_layout(RELEASE, "hf-fp8").values() for _, tensor in parts]
    assert sum(tensor.numel() for tensor in tensors) == 119_401_317_952
    assert sum(tensor.numel() for tensor in tensors if tensor.itemsize == 1) == 117_879_865_344
    sizes = file_sizes(RELEASE, "hf-fp8", max_shard_bytes=50 * 10**9)
    assert len(sizes) == 3
    assert sum(sizes) == 120_922_973_936  # headers included


@pytest.mark.slow
def test_official_fp8_files_differ_from_the_published_bytes_by_header_text_only():
    # 42,741 entries make 4.4 MB of headers, whose digits depend on where the seven files begin, which is not published.
    assert total_bytes(RELEASE, "native-fp8") == 120_922_788_992
    sizes = file_sizes(RELEASE, "native-fp8", max_shard_bytes=20 * 10**9)
    assert len(sizes) == 7
    assert abs(sum(sizes) - 120_927_211_096) < 10_000


def test_nvfp4_files_have_the_published_tensors_and_bytes():
    layout = file_layout(RELEASE, "nvfp4")
    assert sum(len(parts) for parts in layout.values()) == 56_313
    assert total_bytes(RELEASE, "nvfp4") == 70_801_959_560


def test_the_draft_head_has_the_published_size():
    assert round(total_bytes(EAGLE, "native-fp8") / 1e6, 2) == 391.69


def test_plain_formats_take_two_or_four_bytes_per_parameter():
    small = dataclasses.replace(RELEASE, n_layers=1, vision=None)
    count = sum(math.prod(shape) for shape in parameter_shapes(small).values())
    assert total_bytes(small, "hf-bf16") == total_bytes(small, "native-bf16") == 2 * count
    assert total_bytes(small, "hf-f32") == total_bytes(small, "native-f32") == 4 * count
