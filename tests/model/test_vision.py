"""The image path: equal to the reference, the same in pieces as whole, and clear about images it cannot take."""

import pytest
import torch

from small4.errors import ImageError
from small4.model import vision
from small4.model.attention import FullAttention
from small4.model.config import ModelConfig, VisionConfig
from small4.model.transformer import Transformer
from tests.model.hugging_face import build_pair, draw_case, draw_prompt, fill, image_arguments


def rows_of(model: Transformer, images: list[torch.Tensor]) -> torch.Tensor:
    return vision.image_rows(
        model.vision_encoder, model.patch_merger, model.pre_mm_projector_norm, model.vision_language_adapter, images
    )


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("seed", [0, 3, 9, 12])
def test_image_rows_equal_the_reference(seed: int, dtype: torch.dtype) -> None:
    case = draw_case(seed)
    pair = build_pair(case.config, seed, dtype)
    _, images = draw_prompt(case, 5)
    features = pair.theirs.get_submodule("model").get_image_features(**image_arguments(images, dtype))
    theirs = torch.cat(list(features.pooler_output))
    tolerance = 1e-5 if dtype == torch.float32 else 0.03
    torch.testing.assert_close(rows_of(pair.ours, images), theirs, rtol=0, atol=tolerance)


@torch.inference_mode()
def test_images_in_bounded_pieces_give_the_same_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    case = draw_case(21)
    model = Transformer(case.config).eval()
    fill(model, 1)
    _, images = draw_prompt(case, 5)
    together = rows_of(model, images)
    alone = torch.cat([rows_of(model, [image]) for image in images])
    monkeypatch.setattr(vision, "MAX_SCORE_BYTES", 1000)
    torch.testing.assert_close(rows_of(model, images), together, rtol=0, atol=1e-5)
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-5)


def test_training_batches_images_of_one_size_and_gives_the_same_rows() -> None:
    case = draw_case(21)
    model = Transformer(case.config)
    fill(model, 1)
    assert case.config.vision is not None
    unit = case.config.vision.patch_size * case.config.vision.spatial_merge_size
    sizes = [(2, 2), (1, 3), (2, 2), (2, 2), (1, 3), (1, 1)]
    generator = torch.Generator().manual_seed(0)
    images = [torch.randn(3, height * unit, width * unit, generator=generator) for height, width in sizes]
    with torch.no_grad():
        wanted = rows_of(model, images)
    found = rows_of(model, images)
    assert found.requires_grad
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(3, 30, 56), (3, 56, 14), (3, 0, 28), (1, 28, 28), (28, 28)])
def test_an_image_of_the_wrong_shape_is_refused(shape: tuple[int, ...]) -> None:
    encoder = vision.VisionEncoder(
        VisionConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=1, intermediate_size=16)
    )
    with pytest.raises(ImageError, match=r"must be"):
        encoder([torch.zeros(shape)])


@torch.inference_mode()
def test_a_prompt_without_room_for_its_image_is_refused() -> None:
    case = draw_case(0)
    model = Transformer(case.config)
    fill(model, 1)
    _, images = draw_prompt(case, 5)
    with pytest.raises(ImageError, match="room for 0"):
        model(torch.tensor([20, 21]), torch.arange(2), FullAttention([2]), images)


@torch.inference_mode()
def test_a_text_model_refuses_images() -> None:
    case = draw_case(1)
    model = Transformer(case.config)
    with pytest.raises(ImageError, match="text only"):
        model(torch.tensor([10]), torch.arange(1), FullAttention([1]), [torch.zeros(3, 28, 28)])


def test_adapter_needs_a_vision_config() -> None:
    with pytest.raises(ValueError, match="vision"):
        vision.Adapter(ModelConfig(vision=None))
