"""Mistral Small 4 itself, instantiated without memory: parameter count, names and shapes of specification 1.2 and 3."""

import pytest
import torch

from small4.model.config import ModelConfig
from small4.model.transformer import Transformer

LAYER_SHAPES = {
    "attention_norm.weight": (4096,),
    "ffn_norm.weight": (4096,),
    "attention.wq_a.weight": (1024, 4096),
    "attention.q_a_norm.weight": (1024,),
    "attention.wq_b.weight": (4096, 1024),
    "attention.wkv_a_with_mqa.weight": (320, 4096),
    "attention.kv_a_norm.weight": (256,),
    "attention.wkv_b.weight": (6144, 256),
    "attention.wo.weight": (4096, 4096),
    "gate.weight": (128, 4096),
    "experts.w13": (128, 4096, 4096),
    "experts.w2": (128, 4096, 2048),
    "shared_experts.w1.weight": (2048, 4096),
    "shared_experts.w2.weight": (4096, 2048),
    "shared_experts.w3.weight": (2048, 4096),
}
VISION_LAYER_SHAPES = {
    "attention_norm.weight": (1024,),
    "ffn_norm.weight": (1024,),
    "attention.wq.weight": (1024, 1024),
    "attention.wk.weight": (1024, 1024),
    "attention.wv.weight": (1024, 1024),
    "attention.wo.weight": (1024, 1024),
    "feed_forward.w1.weight": (4096, 1024),
    "feed_forward.w2.weight": (1024, 4096),
    "feed_forward.w3.weight": (4096, 1024),
}
TOP_SHAPES = {
    "tok_embeddings.weight": (131072, 4096),
    "norm.weight": (4096,),
    "output.weight": (131072, 4096),
    "vision_encoder.patch_conv.weight": (1024, 3, 14, 14),
    "vision_encoder.ln_pre.weight": (1024,),
    "patch_merger.merging_layer.weight": (1024, 4096),
    "pre_mm_projector_norm.weight": (1024,),
    "vision_language_adapter.w_in.weight": (4096, 1024),
    "vision_language_adapter.w_out.weight": (4096, 4096),
}


@pytest.fixture(scope="module")
def shapes() -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        model = Transformer(ModelConfig())
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def test_the_full_model_has_the_published_number_of_parameters(shapes: dict[str, tuple[int, ...]]) -> None:
    assert sum(torch.Size(shape).numel() for shape in shapes.values()) == 119_401_298_944


def test_every_name_and_shape_is_the_official_one(shapes: dict[str, tuple[int, ...]]) -> None:
    expected = dict(TOP_SHAPES)
    for layer in range(36):
        expected |= {f"layers.{layer}.{name}": shape for name, shape in LAYER_SHAPES.items()}
    for layer in range(24):
        prefix = f"vision_encoder.transformer.layers.{layer}."
        expected |= {prefix + name: shape for name, shape in VISION_LAYER_SHAPES.items()}
    assert shapes == expected


def test_components_add_up_as_published(shapes: dict[str, tuple[int, ...]]) -> None:
    def count(*prefixes: str) -> int:
        return sum(torch.Size(shape).numel() for name, shape in shapes.items() if name.startswith(prefixes))

    assert count("layers.", "norm.") == 117_899_084_800
    assert count("vision_encoder.") == 403_305_472
    assert count("patch_merger.", "pre_mm_projector_norm.", "vision_language_adapter.") == 25_166_848
