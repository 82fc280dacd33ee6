"""Every format holds every kind of model and gives it back: exactly, or within its own step."""

import shutil

import pytest
import torch
from safetensors.torch import load_file

from small4.checkpoint.load import load_config, load_draft, load_model, open_checkpoint
from small4.checkpoint.names import row_of
from small4.checkpoint.quantize import with_shared_scale
from small4.checkpoint.save import save_model
from small4.checkpoint.stored import Dense, Fp8, Nvfp4
from small4.errors import ConfigError, SaveError, UnsupportedModelError
from tests.checkpoint.tiny_models import DENSE_FIRST, DRAFT, IMAGES, TEXT, TIED, logits, parameters, random_model, same

MODELS = {"text": TEXT, "images": IMAGES, "tied": TIED, "dense first": DENSE_FIRST}


@pytest.mark.parametrize("config", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("format", ["hf-f32", "native-f32"])
def test_float32_returns_bit_for_bit(tmp_path, config, format):
    model = random_model(config)
    save_model(model, tmp_path / "model", format=format)
    loaded = load_model(tmp_path / "model", dtype=None)
    assert loaded.config == config
    assert open_checkpoint(tmp_path / "model").format == format
    assert same(parameters(loaded), parameters(model))
    assert torch.equal(logits(loaded), logits(model))


@pytest.mark.parametrize("format", ["hf-bf16", "native-bf16"])
def test_bfloat16_returns_bit_for_bit_and_as_float32_on_demand(tmp_path, format):
    model = random_model(IMAGES, dtype=torch.bfloat16)
    save_model(model, tmp_path, format=format)
    assert same(parameters(load_model(tmp_path)), parameters(model))
    assert same(parameters(load_model(tmp_path, dtype=torch.float32)), parameters(model.float()))


@pytest.mark.parametrize("format", ["hf-fp8", "native-fp8"])
def test_fp8_is_within_half_a_step_and_leaves_the_rest_alone(tmp_path, format):
    model = random_model(IMAGES, dtype=torch.bfloat16)
    save_model(model, tmp_path, format=format)
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.format == format
    for name, original in parameters(model).items():
        stored = checkpoint.read(name)
        assert isinstance(stored, Fp8) == row_of(name).fp8, name
        if isinstance(stored, Dense):
            assert torch.equal(stored.tensor, original), name
            continue
        assert stored.scale.dtype == torch.bfloat16
        error = (stored.to_dense(torch.float32) - original).abs()
        step = torch.maximum(original.float().abs() / 16, stored.scale.float().amax() / 1024)
        assert (error <= step * 1.0001).all(), name


def test_nvfp4_is_within_half_a_step_and_quantises_experts_only(tmp_path):
    model = random_model(IMAGES, dtype=torch.bfloat16)
    save_model(model, tmp_path, format="nvfp4")
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.format == "nvfp4"
    for name, original in parameters(model).items():
        stored = checkpoint.read(name)
        assert isinstance(stored, Nvfp4) == row_of(name).nvfp4, name
        if isinstance(stored, Dense):
            assert torch.equal(stored.tensor, original), name
            continue
        groups = original.float().view(*original.shape[:-1], -1, 16)
        error = (stored.to_dense(torch.float32) - original).abs().view(groups.shape)
        # Half of the widest gap is 1 of 6 steps; the step itself is rounded by up to 1/16, and 6 of it may be cut off.
        assert (error <= groups.abs().amax(-1, keepdim=True) * (1 / 6 + 1 / 16)).all(), name


def test_formats_of_one_model_agree_up_to_their_step(tmp_path):
    """Mean difference of logits, whose standard deviation is about 1: no more than seen with other seeds, doubled."""
    model = random_model(TEXT, dtype=torch.bfloat16)
    exact = logits(model).float()
    for format, limit in (("hf-bf16", 0.0), ("native-bf16", 0.0), ("hf-fp8", 0.3), ("native-fp8", 0.3), ("nvfp4", 0.4)):
        save_model(model, tmp_path / format, format=format)
        difference = (logits(load_model(tmp_path / format)).float() - exact).abs().mean().item()
        assert difference <= limit, (format, difference)


@pytest.mark.parametrize("format", ["native-f32", "native-bf16", "native-fp8"])
def test_draft_head_round_trips(tmp_path, format):
    draft = random_model(DRAFT, dtype=torch.float32 if format == "native-f32" else torch.bfloat16)
    save_model(draft, tmp_path, format=format)
    loaded = load_draft(tmp_path, dtype=None)
    assert loaded.config == DRAFT
    if format == "native-fp8":
        assert "eagle_linear.qscale_weight" in load_file(tmp_path / "consolidated.safetensors")
        errors = [(one - parameters(loaded)[name]).abs().max() for name, one in parameters(draft).items()]
        assert max(errors) < 0.15
    else:
        assert same(parameters(loaded), parameters(draft))


def test_draft_and_model_are_not_taken_for_each_other(tmp_path):
    save_model(random_model(DRAFT), tmp_path / "draft", format="native-f32")
    save_model(random_model(TEXT), tmp_path / "model", format="native-f32")
    for wrong in (load_model, load_config):
        with pytest.raises(ConfigError, match="load_draft"):
            wrong(tmp_path / "draft")
    with pytest.raises(ConfigError, match="load_model"):
        load_draft(tmp_path / "model")
    with pytest.raises(UnsupportedModelError, match="native"):
        save_model(random_model(DRAFT), tmp_path / "other", format="hf-bf16")


def test_fp8_codes_pass_through_unchanged_in_both_directions(tmp_path):
    save_model(random_model(TEXT), tmp_path / "hf", format="hf-fp8", activation_scales={"layers.0.experts.w13": 3.0})
    save_model(open_checkpoint(tmp_path / "hf"), tmp_path / "native", format="native-fp8")
    save_model(open_checkpoint(tmp_path / "native"), tmp_path / "again", format="hf-fp8")
    first, again = (load_file(tmp_path / name / "model.safetensors") for name in ("hf", "again"))
    assert first.keys() == again.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor.float(), again[name].float()), name
    experts = first["model.layers.0.mlp.experts.gate_up_proj_activation_scale"]
    assert experts.tolist() == [3.0] * 4


def test_fusing_experts_takes_the_larger_scale_and_keeps_the_codes_under_it(tmp_path):
    save_model(random_model(TEXT), tmp_path / "native", format="native-fp8")
    save_model(open_checkpoint(tmp_path / "native"), tmp_path / "hf", format="hf-fp8")
    apart, fused = (open_checkpoint(tmp_path / name).read("layers.1.experts.w13") for name in ("native", "hf"))
    assert isinstance(apart, Fp8)
    assert isinstance(fused, Fp8)
    assert apart.scale.shape == (4, 2, 1)
    assert torch.equal(fused.scale, apart.scale.amax(1, keepdim=True))
    assert (apart.scale[:, 0] != apart.scale[:, 1]).any()
    for expert in range(4):
        larger = int(apart.scale[expert, :, 0].argmax())
        rows = slice(16 * larger, 16 * larger + 16)
        assert torch.equal(fused.codes[expert, rows].float(), apart.codes[expert, rows].float())
    difference = (fused.to_dense(torch.float32) - apart.to_dense(torch.float32)).abs()
    assert (difference <= apart.to_dense(torch.float32).abs() / 8 + fused.scale.float() / 512).all()
    assert torch.equal(with_shared_scale(fused).codes.float(), fused.codes.float())


def test_activations_take_the_larger_scale_when_experts_are_fused(tmp_path):
    scales = {"layers.0.experts.w13": torch.tensor([1.0, 2.0, 3.0, 4.0]), "layers.0.attention.wo.weight": 0.5}
    save_model(random_model(TEXT), tmp_path / "native", format="native-fp8", activation_scales=scales)
    path = tmp_path / "native" / "consolidated.safetensors"
    tensors = load_file(path)
    assert tensors["layers.0.experts.2.w3.qscale_act"].item() == 3.0
    assert tensors["layers.0.attention.wo.qscale_act"].item() == 0.5
    assert tensors["layers.1.attention.wo.qscale_act"].item() == 1.0
    fused = with_shared_scale(open_checkpoint(tmp_path / "native").read("layers.0.experts.w13"))
    assert fused.activation_scale.flatten().tolist() == [1.0, 2.0, 3.0, 4.0]


def test_bfloat16_export_of_fp8_is_code_times_scale_rounded_once(tmp_path):
    save_model(random_model(TEXT), tmp_path / "fp8", format="hf-fp8")
    save_model(open_checkpoint(tmp_path / "fp8"), tmp_path / "plain", format="hf-bf16")
    assert same(parameters(load_model(tmp_path / "plain")), parameters(load_model(tmp_path / "fp8")))


def test_official_files_hold_experts_apart_and_their_own_names(tmp_path):
    save_model(random_model(IMAGES), tmp_path, format="native-fp8")
    tensors = load_file(tmp_path / "consolidated.safetensors")
    assert tensors["layers.1.experts.3.w2.weight"].dtype == torch.float8_e4m3fn
    assert tensors["layers.1.experts.3.w2.qscale_weight"].shape == ()
    assert tensors["vision_encoder.transformer.layers.0.attention.wq.weight"].dtype == torch.bfloat16
    assert tensors["vision_language_adapter.w_in.weight"].shape == (32, 16)


def test_vision_queries_are_permuted_in_hugging_face_files_only(tmp_path):
    model = random_model(IMAGES)
    save_model(model, tmp_path / "hf", format="hf-f32")
    save_model(model, tmp_path / "native", format="native-f32")
    hf, native = (
        load_file(tmp_path / "hf" / "model.safetensors"),
        load_file(tmp_path / "native/consolidated.safetensors"),
    )
    ours = native["vision_encoder.transformer.layers.1.attention.wk.weight"]
    theirs = hf["vision_tower.transformer.layers.1.attention.k_proj.weight"]
    # Two heads of 8 rows: pairs (0,1), (2,3), ... against halves (0,2,4,6), (1,3,5,7).
    order = [0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15]
    assert torch.equal(theirs, ours[order])
    values = "vision_encoder.transformer.layers.1.attention.wv.weight"
    assert torch.equal(hf["vision_tower.transformer.layers.1.attention.v_proj.weight"], native[values])


@pytest.mark.parametrize("format", ["hf-fp8", "native-bf16"])
def test_shards_with_an_index_read_like_one_file(tmp_path, format):
    model = random_model(TEXT)
    save_model(model, tmp_path / "one", format=format)
    save_model(model, tmp_path / "many", format=format, max_shard_bytes=10_000)
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 2
    assert same(parameters(load_model(tmp_path / "many")), parameters(load_model(tmp_path / "one")))
    index = next((tmp_path / "many").glob("*.index.json"))
    index.unlink()
    assert same(parameters(load_model(tmp_path / "many")), parameters(load_model(tmp_path / "one")))


def test_a_tokenizer_comes_along_and_other_files_are_kept(tmp_path):
    tokenizer = tmp_path / "tekken.json"
    tokenizer.write_text("{}")
    save_model(random_model(TEXT), tmp_path / "a", format="hf-bf16", extra_files={"tekken.json": tokenizer})
    save_model(open_checkpoint(tmp_path / "a"), tmp_path / "b", format="native-bf16")
    assert (tmp_path / "b" / "tekken.json").read_text() == "{}"
    (tmp_path / "b" / "notes.txt").write_text("mine")
    save_model(open_checkpoint(tmp_path / "a"), tmp_path / "b", format="hf-bf16")
    names = {file.name for file in (tmp_path / "b").iterdir()}
    assert names == {"config.json", "model.safetensors", "small4-manifest.json", "tekken.json", "notes.txt"}


def test_a_checkpoint_may_be_saved_over_itself(tmp_path):
    model = random_model(TEXT)
    save_model(model, tmp_path / "a", format="native-f32")
    loaded = load_model(tmp_path / "a", dtype=None)
    save_model(loaded, tmp_path / "a", format="hf-f32")
    save_model(open_checkpoint(tmp_path / "a"), tmp_path / "a", format="native-f32")
    assert same(parameters(load_model(tmp_path / "a", dtype=None)), parameters(model))
    assert same(parameters(loaded), parameters(model))


def test_saving_refuses_to_replace_what_small4_did_not_write(tmp_path):
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "thesis.txt").write_text("mine")
    with pytest.raises(SaveError, match="did not write"):
        save_model(random_model(TEXT), tmp_path / "work", format="hf-bf16")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(SaveError, match="is a file"):
        save_model(random_model(TEXT), tmp_path / "file", format="hf-bf16")
    assert (tmp_path / "work" / "thesis.txt").read_text() == "mine"
    with pytest.raises(UnsupportedModelError, match="hf-bf16"):
        save_model(random_model(TEXT), tmp_path / "x", format="pickle")


def test_loaded_weights_share_the_file_and_training_them_does_not_change_it(tmp_path):
    model = random_model(TEXT, dtype=torch.bfloat16)
    save_model(model, tmp_path, format="hf-bf16")
    before = (tmp_path / "model.safetensors").read_bytes()
    loaded = load_model(tmp_path)
    with torch.no_grad():
        for parameter in loaded.parameters():
            assert parameter.requires_grad
            parameter += 1
    assert (tmp_path / "model.safetensors").read_bytes() == before
    shutil.rmtree(tmp_path)
    logits(loaded)
