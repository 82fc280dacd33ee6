"""transformers reads what we save and computes the same; we read what transformers saves."""

import dataclasses
import json
import logging

import pytest
import torch
from transformers import (
    FineGrainedFP8Config,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    Mistral4Config,
    Mistral4ForCausalLM,
)

from small4.checkpoint.load import load_model, open_checkpoint
from small4.checkpoint.save import save_model
from small4.model.attention import FullAttention
from small4.model.config import YarnConfig
from tests.checkpoint.tiny_models import DENSE_FIRST, IMAGES, TEXT, TIED, random_model

TOKENS = torch.randint(14, 64, (40,), generator=torch.Generator().manual_seed(3))
WITH_FACTOR = dataclasses.replace(
    TEXT, yarn=YarnConfig(factor=4.0, original_max_position_embeddings=64, apply_scale=True)
)
NO_YARN = dataclasses.replace(TEXT, yarn=None)
MODELS = {"text": TEXT, "tied": TIED, "dense first": DENSE_FIRST, "factor": WITH_FACTOR, "no yarn": NO_YARN}
# Our kernels sum in another order than the library's; equal weights stay within rounding of each other.
LIMITS = {torch.float32: 2e-5, torch.bfloat16: 0.06}


@pytest.fixture(autouse=True)
def quiet():
    logging.getLogger("transformers").setLevel(logging.ERROR)


@torch.no_grad()
def ours(path, dtype, positions, images=(), tokens=TOKENS, **options):
    model = load_model(path, dtype=dtype, **options)
    return model(tokens, positions, FullAttention([len(tokens)]), images).float()


@torch.no_grad()
def theirs(model, positions, tokens=TOKENS, **images):
    model = model.eval()
    model.set_attn_implementation("eager")
    return model(tokens[None], position_ids=positions[None], **images).logits[0].float()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("config", MODELS.values(), ids=MODELS)
def test_transformers_computes_the_same_from_our_text_checkpoints(tmp_path, config, dtype):
    save_model(random_model(config, dtype=dtype), tmp_path, format="hf-f32" if dtype == torch.float32 else "hf-bf16")
    positions = torch.arange(100, 140)
    model, info = Mistral4ForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert model.dtype == dtype
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    difference = (theirs(model, positions) - ours(tmp_path, dtype, positions)).abs()
    assert difference.mean() <= LIMITS[dtype]
    if dtype == torch.float32:
        assert difference.max() <= LIMITS[dtype]


def test_transformers_computes_the_same_from_our_image_checkpoint(tmp_path):
    save_model(random_model(IMAGES), tmp_path, format="hf-f32")
    model = Mistral3ForConditionalGeneration.from_pretrained(tmp_path)
    tokens, image, positions = TOKENS.clone(), torch.randn(3, 8, 16), torch.arange(40)
    tokens[5:7] = 10
    reference = theirs(model, positions, tokens, pixel_values=image[None], image_sizes=torch.tensor([[8, 16]]))
    assert (reference - ours(tmp_path, torch.float32, positions, [image], tokens)).abs().max() <= 5e-5


def test_transformers_reads_our_fp8_by_dequantising_it(tmp_path):
    save_model(random_model(TEXT, dtype=torch.bfloat16), tmp_path, format="hf-fp8")
    quantisation = FineGrainedFP8Config(dequantize=True, activation_scheme="static", weight_block_size=None)
    model = Mistral4ForCausalLM.from_pretrained(tmp_path, quantization_config=quantisation, dtype=torch.bfloat16)
    checkpoint, layer = open_checkpoint(tmp_path), model.model.layers[1]
    for name, reference in (
        ("layers.1.attention.wkv_b.weight", layer.self_attn.kv_b_proj.weight),
        ("layers.1.shared_experts.w2.weight", layer.mlp.shared_experts.down_proj.weight),
        ("layers.1.gate.weight", layer.mlp.gate.weight),
    ):
        assert torch.equal(checkpoint.read(name).to_dense(), reference), name
    # transformers 5.23 leaves out the scales of fused experts here; with them put back, it computes what we compute.
    with torch.no_grad():
        for number, block in enumerate(model.model.layers):
            for name, weight in (("w13", block.mlp.experts.gate_up_proj), ("w2", block.mlp.experts.down_proj)):
                stored = checkpoint.read(f"layers.{number}.experts.{name}")
                assert torch.equal(weight, stored.codes.to(torch.bfloat16))
                weight.mul_(stored.scale)
    positions = torch.arange(40)
    difference = (theirs(model, positions) - ours(tmp_path, torch.bfloat16, positions)).abs()
    assert difference.mean() <= LIMITS[torch.bfloat16]


def tiny_text(**changes):
    torch.manual_seed(5)
    return Mistral4Config(
        vocab_size=64, hidden_size=32, intermediate_size=48, moe_intermediate_size=16, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, q_lora_rank=16, kv_lora_rank=16, qk_nope_head_dim=8,
        qk_rope_head_dim=8, v_head_dim=16, n_routed_experts=4, num_experts_per_tok=2, **changes,
    )  # fmt: skip


def stirred(model):
    """Weights large enough to tell right from wrong; the library's own start is almost uniform."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(
                1 + 0.1 * torch.randn_like(parameter)
                if parameter.ndim == 1
                else torch.randn_like(parameter) / parameter[0].numel() ** 0.5
            )
    return model


def test_we_compute_the_same_from_its_text_checkpoint(tmp_path):
    model = stirred(Mistral4ForCausalLM(tiny_text()))
    model.save_pretrained(tmp_path)
    positions = torch.arange(8180, 8220)
    loaded = load_model(tmp_path)
    assert not loaded.config.yarn.apply_scale  # as on the release, whose config.json says the same
    # transformers multiplies the softmax scale by what its own default config says, so its models want that too.
    config = dataclasses.replace(loaded.config, yarn=dataclasses.replace(loaded.config.yarn, apply_scale=True))
    difference = theirs(model, positions) - ours(tmp_path, None, positions, config=config)
    assert difference.abs().max() <= 5e-5


@pytest.mark.parametrize("style", ["release", "current"])
def test_we_compute_the_same_from_its_image_checkpoint(tmp_path, style):
    text = tiny_text().to_dict()
    text["rope_parameters"] |= {"mscale": 0.0, "mscale_all_dim": 0.0, "attention_factor": 1.0}
    vision = {
        "model_type": "pixtral", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
        "num_attention_heads": 2, "patch_size": 4, "image_size": 32, "hidden_act": "silu",
    }  # fmt: skip
    config = Mistral3Config(text_config=text, vision_config=vision, tie_word_embeddings=False)
    model = stirred(Mistral3ForConditionalGeneration(config))
    model.save_pretrained(tmp_path, save_original_format=style == "release")
    tokens, image, positions = TOKENS.clone(), torch.randn(3, 16, 8), torch.arange(40)
    tokens[5:7] = 10
    reference = theirs(model, positions, tokens, pixel_values=image[None], image_sizes=torch.tensor([[16, 8]]))
    assert (reference - ours(tmp_path, None, positions, [image], tokens)).abs().max() <= 5e-5


def test_what_it_saves_again_we_read_again(tmp_path):
    save_model(random_model(WITH_FACTOR), tmp_path / "ours", format="hf-f32")
    Mistral4ForCausalLM.from_pretrained(tmp_path / "ours").save_pretrained(tmp_path / "theirs", max_shard_size="20KB")
    assert json.loads((tmp_path / "theirs" / "config.json").read_text())["yarn_apply_scale"] is True
    first, second = load_model(tmp_path / "ours"), load_model(tmp_path / "theirs")
    assert first.config == second.config
    assert all(torch.equal(one, two) for one, two in zip(first.parameters(), second.parameters(), strict=True))
