"""Both config files say all that ModelConfig holds, and refuse what small4 has no code for."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from small4.checkpoint.configs import from_params, to_params
from small4.checkpoint.hf_config import from_hf, to_hf
from small4.errors import ConfigError, UnsupportedModelError
from small4.model.config import ModelConfig, QueryScalingConfig, YarnConfig
from tests.checkpoint.tiny_models import DENSE_FIRST, DRAFT, IMAGES, TEXT, TIED, VISION

RELEASE = ModelConfig()
MODELS = [RELEASE, TEXT, IMAGES, TIED, DENSE_FIRST, dataclasses.replace(TEXT, llama_4_scaling=None, yarn=None)]


@pytest.mark.parametrize("config", MODELS)
def test_configs_return_from_both_files(config):
    assert from_hf(to_hf(config, "hf-bf16")) == config
    assert from_params(to_params(config, "native-bf16")) == config


def test_a_draft_head_returns_from_its_params():
    assert from_params(to_params(DRAFT, "native-fp8"), is_draft=True) == DRAFT
    params = to_params(DRAFT, "native-fp8")
    assert "moe" not in params
    del params["llama_4_scaling"]
    with pytest.raises(ConfigError, match="llama_4_scaling"):
        from_params(params, is_draft=True)


@given(
    factor=st.floats(1.5, 512), length=st.integers(1, 10**6), beta=st.floats(2, 64), apply_scale=st.booleans(),
    growth=st.floats(0.01, 2), eps=st.floats(1e-8, 1e-3), theta=st.floats(2, 1e7), layers=st.integers(1, 99),
)  # fmt: skip
def test_every_value_survives_both_files(factor, length, beta, apply_scale, growth, eps, theta, layers):
    config = dataclasses.replace(
        TEXT,
        n_layers=layers,
        norm_eps=eps,
        rope_theta=theta,
        yarn=YarnConfig(factor=factor, original_max_position_embeddings=length, beta=beta, apply_scale=apply_scale),
        llama_4_scaling=QueryScalingConfig(beta=growth, original_max_position_embeddings=length),
    )
    assert from_hf(to_hf(config, "hf-bf16")) == config
    assert from_params(to_params(config, "native-bf16")) == config


def test_the_released_spelling_of_the_scale_means_no_factor():
    raw = to_hf(RELEASE, "hf-fp8")
    raw["text_config"]["rope_parameters"] |= {"mscale": 1.0, "mscale_all_dim": 1.0}
    del raw["text_config"]["rope_parameters"]["attention_factor"]
    assert from_hf(raw) == RELEASE
    raw["text_config"]["yarn_apply_scale"] = True
    assert from_hf(raw).yarn.apply_scale


def test_the_release_values_stand_where_a_text_config_is_silent():
    assert from_hf({"model_type": "mistral4"}, has_output=True) == dataclasses.replace(RELEASE, vision=None)


def test_silence_about_tying_is_settled_by_the_tensors():
    assert not from_hf({"model_type": "mistral4"}, has_output=True).tied_embeddings
    assert from_hf({"model_type": "mistral4"}, has_output=False).tied_embeddings


def test_fp8_is_declared_as_the_release_does():
    assert to_hf(IMAGES, "hf-fp8")["quantization_config"] == {
        "quant_method": "fp8",
        "activation_scheme": "static",
        "weight_block_size": None,
        "modules_to_not_convert": ["lm_head", "model.vision_tower", "model.multi_modal_projector"],
    }
    assert to_params(IMAGES, "native-fp8")["quantization"] == {"qformat_weight": "fp8_e4m3", "qscheme_act": "TENSOR"}
    assert "quantization_config" not in to_hf(IMAGES, "hf-bf16")


@pytest.mark.parametrize(
    "raw",
    [
        {},
        {"model_type": "llama", "architectures": ["LlamaForCausalLM"]},
        {"model_type": "mistral3", "text_config": {"model_type": "mistral"}},
        {"model_type": "mistral3"},
        {"model_type": ["mistral4"]},
    ],
)
def test_another_architecture_is_refused_by_name(raw):
    with pytest.raises(UnsupportedModelError, match="Mistral4ForCausalLM"):
        from_hf(raw)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"hidden_act": "gelu"}, UnsupportedModelError, "hidden_act"),
        ({"attention_bias": True}, UnsupportedModelError, "attention_bias"),
        ({"norm_topk_prob": False}, UnsupportedModelError, "norm_topk_prob"),
        ({"rope_interleave": False}, UnsupportedModelError, "rope_interleave"),
        ({"num_key_value_heads": 1}, UnsupportedModelError, "num_key_value_heads"),
        ({"head_dim": 99}, UnsupportedModelError, "head_dim"),
        ({"n_group": 2}, ConfigError, "groups"),
        ({"hidden_size": "4096"}, ConfigError, "hidden_size"),
        ({"hidden_size": True}, ConfigError, "hidden_size"),
        ({"hidden_size": 0}, ConfigError, "positive"),
        ({"rms_norm_eps": float("nan")}, ConfigError, "finite"),
        ({"tie_word_embeddings": "no"}, ConfigError, "true or false"),
        ({"rope_parameters": {"rope_type": "linear"}}, UnsupportedModelError, "linear"),
        ({"rope_parameters": {"rope_type": "yarn"}}, ConfigError, "factor"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 128.0}}, UnsupportedModelError, "attention_factor"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 0.5}}, ConfigError, "at least 1"),
        ({"rope_parameters": "yarn"}, ConfigError, "an object"),
    ],
)
def test_values_that_small4_cannot_run_are_refused(change, error, message):
    with pytest.raises(error, match=message):
        from_hf(to_hf(TEXT, "hf-bf16") | change)


@pytest.mark.parametrize("name", ["image_size", "max_image_size"])
@pytest.mark.parametrize("value", [0, 16_385, 2**40])
def test_an_image_side_of_absurd_size_is_refused(name, value):
    raw = to_hf(IMAGES, "hf-bf16")
    raw["vision_config"][name] = value
    with pytest.raises(ConfigError, match=f"{name} is {value}; it must lie in 1 to 16384"):
        from_hf(raw)


def test_vision_that_small4_cannot_run_is_refused():
    raw = to_hf(IMAGES, "hf-bf16")
    raw["vision_config"]["hidden_act"] = "gelu"
    with pytest.raises(UnsupportedModelError, match="hidden_act"):
        from_hf(raw)
    with pytest.raises(ConfigError, match="native"):
        to_hf(dataclasses.replace(TEXT, vision=dataclasses.replace(VISION, norm_eps=1e-6)), "hf-bf16")


def test_what_config_json_cannot_say_is_refused_and_params_json_says_it():
    apart = dataclasses.replace(TEXT, llama_4_scaling=QueryScalingConfig(original_max_position_embeddings=32))
    with pytest.raises(ConfigError, match="native"):
        to_hf(apart, "hf-bf16")
    assert from_params(to_params(apart, "native-bf16")) == apart
    dense = dataclasses.replace(TEXT, moe=None)
    with pytest.raises(ConfigError, match="native"):
        to_hf(dense, "hf-bf16")
    assert from_params(to_params(dense, "native-bf16")) == dense


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"kv_lora_rank": None}, ConfigError, "kv_lora_rank"),
        ({"dim": None}, ConfigError, "dim"),
        ({"activation": "gelu"}, UnsupportedModelError, "activation"),
        ({"n_kv_heads": 8}, UnsupportedModelError, "n_kv_heads"),
        ({"moe": {"route_every_n": 2}}, UnsupportedModelError, "route_every_n"),
        ({"moe": []}, ConfigError, "an object"),
        ({"vision_encoder": {"mm_projector_id": "other"}}, UnsupportedModelError, "mm_projector_id"),
        ({"yarn": {"factor": "x"}}, ConfigError, "factor"),
    ],
)
def test_params_that_small4_cannot_run_are_refused(change, error, message):
    with pytest.raises(error, match=message):
        from_params(to_params(TEXT, "native-bf16") | change)


def test_params_of_another_architecture_are_refused():
    with pytest.raises(UnsupportedModelError, match="latent attention"):
        from_params({"dim": 4096, "n_layers": 32, "n_kv_heads": 8})
