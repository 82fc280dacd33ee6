import pytest

from small4.checkpoint.names import (
    TABLE,
    expert_names,
    gguf_names,
    hf_name,
    is_fused_experts,
    official_from_gguf,
    official_from_hf,
    row_of,
)


def _filled(template: str) -> str:
    return template.replace("{i}", "7")


@pytest.mark.parametrize("style", ["release", "current"])
def test_every_name_returns_from_hugging_face(style):
    for row in TABLE:
        if row.hf is not None:
            assert official_from_hf(hf_name(_filled(row.official), style)) == _filled(row.official)


def test_text_names_return_from_the_bare_style_and_images_have_no_name_there():
    for row in TABLE:
        name = hf_name(_filled(row.official), "bare")
        if row.projector_file or row.hf is None:
            assert name is None
        else:
            assert official_from_hf(name) == _filled(row.official)


def test_every_name_returns_from_gguf():
    for row in TABLE:
        for name in gguf_names(_filled(row.official)):
            assert official_from_gguf(name) == _filled(row.official)


def test_styles_differ_in_their_prefix_only():
    official = "layers.35.attention.wkv_b.weight"
    assert hf_name(official, "bare") == "model.layers.35.self_attn.kv_b_proj.weight"
    assert hf_name(official, "release") == "language_model.model.layers.35.self_attn.kv_b_proj.weight"
    assert hf_name(official, "current") == "model.language_model.layers.35.self_attn.kv_b_proj.weight"
    assert hf_name("output.weight", "release") == "language_model.lm_head.weight"
    assert hf_name("output.weight", "current") == "lm_head.weight"


@pytest.mark.parametrize(
    "name", ["", "layers.x.gate.weight", "layers.07.gate.weight", "layers.²3.gate.weight", "model.model.norm.weight"]
)
def test_strangers_have_no_row(name):
    assert row_of(name) is None
    assert official_from_hf(name) is None
    assert official_from_gguf(name) is None


def test_experts_are_apart_in_official_files():
    assert expert_names("layers.3.experts.w13", 2) == [
        ("layers.3.experts.0.w1.weight", "layers.3.experts.0.w3.weight"),
        ("layers.3.experts.1.w1.weight", "layers.3.experts.1.w3.weight"),
    ]
    assert expert_names("layers.3.experts.w2", 1) == [("layers.3.experts.0.w2.weight",)]
    assert is_fused_experts("layers.3.experts.w2")
    assert not is_fused_experts("layers.3.shared_experts.w2.weight")
