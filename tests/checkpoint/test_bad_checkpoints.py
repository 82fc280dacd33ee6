"""Every way in which a directory is no checkpoint, or not the right one, has a typed error that says what to do."""

import json
import os
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from small4.checkpoint.describe import describe
from small4.checkpoint.load import load_config, load_model, open_checkpoint
from small4.checkpoint.save import save_model
from small4.checkpoint.verify import verify
from small4.errors import (
    CheckpointError,
    CheckpointNotFoundError,
    ConfigError,
    HeaderError,
    TensorMismatchError,
    UnsafeFileError,
    UnsupportedModelError,
    VerificationError,
)
from tests.checkpoint.tiny_models import IMAGES, TEXT, random_model

MANIFEST = "small4-manifest.json"


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    path = tmp_path_factory.mktemp("originals")
    for format in ("hf-f32", "hf-fp8", "native-fp8", "nvfp4"):
        save_model(random_model(TEXT), path / format, format=format)
        (path / format / MANIFEST).unlink()
    save_model(random_model(TEXT), path / "sharded", format="hf-f32", max_shard_bytes=40_000)
    return path


@pytest.fixture
def copy(originals, tmp_path):
    return lambda name: shutil.copytree(originals / name, tmp_path / name)


def edit_json(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_tensors(path, change):
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


@pytest.mark.parametrize("use", [load_model, load_config, open_checkpoint, describe, verify])
def test_a_missing_or_empty_directory_is_said_to_be_so(tmp_path, use):
    with pytest.raises(CheckpointNotFoundError, match="does not exist"):
        use(tmp_path / "nowhere")
    with pytest.raises(CheckpointNotFoundError, match="empty"):
        use(tmp_path)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(CheckpointNotFoundError, match=r"config\.json"):
        use(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointNotFoundError, match="incomplete"):
        use(tmp_path)
    with pytest.raises(CheckpointNotFoundError, match="directory that holds"):
        use(tmp_path / "config.json")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "last.ckpt", "weights.pkl"])
def test_pickles_are_refused_and_never_opened(tmp_path, name):
    file = tmp_path / name
    os.mkfifo(file)  # opening it would hang
    (tmp_path / "config.json").write_text('{"model_type": "mistral4"}')
    for path in (tmp_path, file):
        for use in (load_model, describe, verify):
            with pytest.raises(UnsafeFileError, match="pickle"):
                use(path)


def test_pickles_beside_safetensors_do_not_matter(copy):
    path = copy("hf-f32")
    os.mkfifo(path / "pytorch_model.bin")
    load_model(path)


def test_code_in_a_repository_is_not_run(copy):
    path = copy("hf-f32")
    (path / "modeling_evil.py").write_text("raise SystemExit('this code ran')")
    edit_json(path / "config.json", auto_map={"AutoModelForCausalLM": "modeling_evil.Model"})
    load_model(path)
    assert not any("modeling_evil" in name for name in sys.modules)


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/x.safetensors", "a/b.safetensors", "..", "", "x.bin"])
def test_an_index_that_leads_elsewhere_is_refused(copy, name):
    path = copy("sharded")
    index = path / "model.safetensors.index.json"
    weight_map = json.loads(index.read_text())["weight_map"]
    edit_json(index, weight_map=weight_map | {"lm_head.weight": name})
    with pytest.raises(UnsafeFileError, match=r"index\.json"):
        load_model(path)


def test_links_out_of_the_checkpoint_are_refused_and_the_hub_cache_is_not(copy, tmp_path):
    path = copy("hf-f32")
    file, blob = path / "model.safetensors", tmp_path / "elsewhere"
    file.rename(blob)
    file.symlink_to(blob)
    with pytest.raises(UnsafeFileError, match="outside"):
        load_model(path)
    snapshot = tmp_path / "models--org--name" / "snapshots" / "abc"
    blobs = tmp_path / "models--org--name" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for name, source in (("model.safetensors", blob), ("config.json", path / "config.json")):
        shutil.copy(source, blobs / f"digest-{name}")
        (snapshot / name).symlink_to(f"../../blobs/digest-{name}")
    load_model(snapshot)
    (tmp_path / "alias").symlink_to(snapshot)
    load_model(tmp_path / "alias")


def test_what_is_no_regular_file_is_refused(copy):
    path = copy("hf-f32")
    (path / "model.safetensors").unlink()
    os.mkfifo(path / "model-00001-of-00001.safetensors")
    with pytest.raises(UnsafeFileError, match="regular"):
        load_model(path)


def test_a_missing_shard_and_a_wrong_index_are_named(copy):
    path = copy("sharded")
    index, files = path / "model.safetensors.index.json", sorted(path.glob("*.safetensors"))
    weight_map = json.loads(index.read_text())["weight_map"]
    edit_json(index, weight_map=weight_map | {"lm_head.weight": files[-1].name})
    with pytest.raises(TensorMismatchError, match=r"the index places lm_head\.weight"):
        load_model(path)
    edit_json(index, weight_map=weight_map)
    files[-1].unlink()
    with pytest.raises(CheckpointNotFoundError, match=files[-1].name):
        load_model(path)
    index.write_text("{}")
    with pytest.raises(CheckpointError, match="weight_map"):
        load_model(path)


def test_a_cut_weight_file_is_refused_by_name(copy):
    path = copy("hf-f32")
    file = path / "model.safetensors"
    os.truncate(file, file.stat().st_size - 1)
    with pytest.raises(HeaderError, match=r"model\.safetensors"):
        load_model(path)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"model_type": "mistral4"', "\xff", "[" * 100_000])
def test_a_broken_config_is_refused(copy, text):
    path = copy("hf-f32")
    (path / "config.json").write_text(text)
    with pytest.raises(ConfigError, match=r"config\.json"):
        load_model(path)
    with (path / "config.json").open("w") as file:
        file.truncate(2 * 1024 * 1024)
    with pytest.raises(ConfigError, match="over"):
        load_model(path)


def test_missing_extra_and_misshapen_tensors_are_all_named(copy):
    path = copy("hf-f32")

    def change(tensors):
        del tensors["model.layers.1.mlp.gate.weight"]
        del tensors["model.norm.weight"]
        tensors["model.layers.2.stranger"] = torch.ones(1)
        tensors["lm_head.weight"] = torch.ones(3, 3)
        tensors["model.layers.0.self_attn.o_proj.weight"] = tensors["model.layers.0.self_attn.o_proj.weight"].int()

    edit_tensors(path / "model.safetensors", change)
    with pytest.raises(TensorMismatchError) as caught:
        load_model(path)
    for part in (
        "2 missing", "model.layers.1.mlp.gate.weight", "model.norm.weight", "1 unexpected", "model.layers.2.stranger",
        "2 of another shape or type", "lm_head.weight (float32 [3, 3], needed [64, 32])", "o_proj.weight (int32",
        "config.json",
    ):  # fmt: skip
        assert part in str(caught.value)
    assert describe(path).missing == ("model.layers.1.mlp.gate.weight", "model.norm.weight")
    assert not describe(path).is_complete
    assert {problem.where for problem in verify(path).problems} >= {"model.norm.weight", "lm_head.weight"}


def test_a_config_of_another_model_is_refused(copy):
    path = copy("hf-f32")
    edit_json(path / "config.json", vocab_size=128)
    with pytest.raises(TensorMismatchError, match=r"embed_tokens.*needed \[128, 32\]"):
        load_model(path)
    edit_json(path / "config.json", vocab_size=64, tie_word_embeddings=True)
    with pytest.raises(TensorMismatchError, match=r"unexpected: lm_head\.weight"):
        load_model(path)
    edit_json(path / "config.json", tie_word_embeddings=False, num_hidden_layers=3)
    with pytest.raises(TensorMismatchError, match=r"missing: model\.layers\.2"):
        load_model(path)


def test_an_unknown_architecture_is_refused_by_name(copy):
    path = copy("hf-f32")
    edit_json(path / "config.json", model_type="llama", architectures=["LlamaForCausalLM"])
    with pytest.raises(UnsupportedModelError, match="LlamaForCausalLM"):
        load_model(path)


def test_a_config_that_contradicts_the_quantisation_of_the_tensors_is_refused(copy):
    plain, fp8, native = copy("hf-f32"), copy("hf-fp8"), copy("native-fp8")
    section = json.loads((fp8 / "config.json").read_text())["quantization_config"]
    edit_json(plain / "config.json", quantization_config=section)
    with pytest.raises(ConfigError, match="no tensor is"):
        load_model(plain)
    edit_json(fp8 / "config.json", quantization_config=None)
    with pytest.raises(ConfigError, match="no FP8 quantization_config"):
        load_model(fp8)
    edit_json(fp8 / "config.json", quantization_config=section | {"quant_method": "gptq"})
    with pytest.raises(UnsupportedModelError, match="gptq"):
        load_model(fp8)
    edit_json(fp8 / "config.json", quantization_config=section | {"weight_block_size": [128, 128]})
    with pytest.raises(UnsupportedModelError, match="weight_block_size"):
        load_model(fp8)
    edit_json(native / "params.json", quantization={"qformat_weight": "int4"})
    with pytest.raises(UnsupportedModelError, match="int4"):
        load_model(native)


@pytest.mark.parametrize(
    ("format", "file", "lost"),
    [
        ("hf-fp8", "model", "model.layers.0.self_attn.q_a_proj.weight_scale_inv"),
        ("hf-fp8", "model", "model.layers.0.mlp.experts.down_proj_scale_inv"),
        ("native-fp8", "consolidated", "layers.0.experts.2.w3.qscale_weight"),
        ("nvfp4", "consolidated", "layers.1.experts.0.w1.weight_global_scale"),
        ("nvfp4", "consolidated", "layers.1.shared_experts.w2.weight_scale"),
        ("nvfp4", "consolidated", "layers.1.experts.3.w2.weight_packed"),
    ],
)
def test_a_lost_scale_is_named(copy, format, file, lost):
    path = copy(format)
    edit_tensors(path / f"{file}.safetensors", lambda tensors: tensors.pop(lost))
    with pytest.raises(TensorMismatchError) as caught:
        load_model(path)
    assert lost.removesuffix("_packed") in str(caught.value)


def test_a_scale_without_its_weight_or_of_another_size_is_named(copy):
    path = copy("hf-fp8")
    name = "model.layers.0.mlp.experts.gate_up_proj_scale_inv"
    edit_tensors(path / "model.safetensors", lambda tensors: tensors.update({name: torch.ones(3, 1, 1)}))
    with pytest.raises(TensorMismatchError, match="needed 4 of them"):
        load_model(path)


def test_scales_of_a_quantised_cache_are_ignored(copy):
    path = copy("native-fp8")
    extra = {"layers.0.attention.kv_fake_quantizer.qscale_act": torch.tensor(1.0)}
    edit_tensors(path / "consolidated.safetensors", lambda tensors: tensors.update(extra))
    load_model(path)


@pytest.mark.parametrize(
    ("format", "name", "value"),
    [
        ("hf-f32", "model.norm.weight", float("nan")),
        ("hf-f32", "lm_head.weight", float("inf")),
        ("hf-fp8", "model.layers.1.mlp.experts.down_proj", float("nan")),
        ("hf-fp8", "model.layers.1.mlp.experts.down_proj_scale_inv", float("-inf")),
        ("nvfp4", "layers.1.experts.0.w1.weight_scale", float("nan")),
    ],
)
def test_verify_finds_weights_that_are_no_numbers(copy, format, name, value):
    path = copy(format)
    file = next(path.glob("*.safetensors"))
    assert verify(path).is_good

    def change(tensors):
        dtype = tensors[name].dtype
        tensors[name] = tensors[name].float()
        tensors[name].view(-1)[-1] = value
        tensors[name] = tensors[name].to(dtype)

    edit_tensors(file, change)
    report = verify(path)
    assert [problem.where for problem in report.problems] == [name]
    with pytest.raises(VerificationError, match="NaN or infinity"):
        report.raise_if_bad()


def test_describe_tells_shape_sizes_and_what_is_there(copy, tmp_path):
    description = describe(copy("hf-fp8"))
    assert description.config == TEXT
    assert description.format == "hf-fp8"
    assert description.is_complete
    assert not description.has_tokenizer
    assert description.parameters == sum(one.numel() for one in random_model(TEXT).parameters())
    assert sum(description.parameters_by_component.values()) == description.parameters
    assert set(description.bytes_by_type) == {"BF16", "F8_E4M3"}
    assert sum(description.bytes_by_type.values()) < description.bytes
    json.dumps(description.to_dict())
    save_model(random_model(IMAGES), tmp_path / "images", format="nvfp4")
    assert describe(tmp_path / "images").parameters_by_component["vision"] > 0


@pytest.mark.parametrize("name", ["num_hidden_layers", "num_attention_heads", "hidden_size", "qk_rope_head_dim"])
@pytest.mark.parametrize("value", [10**9, 2**70])
def test_a_config_of_absurd_size_is_refused_before_anything_is_built(copy, name, value):
    path = copy("hf-f32")
    changes = {name: value} | ({"num_key_value_heads": value} if name == "num_attention_heads" else {})
    edit_json(path / "config.json", **changes)
    with pytest.raises(ConfigError, match=f"is {value}; the limit is"):
        load_model(path)
    assert verify(path).problems


@pytest.mark.parametrize("name", ["n_routed_experts", "n_shared_experts", "moe_intermediate_size"])
def test_experts_of_absurd_number_or_size_are_refused_before_anything_is_built(copy, name):
    path = copy("hf-f32")
    edit_json(path / "config.json", **{name: 10**9})
    with pytest.raises(ConfigError, match="is 1000000000; it must lie in"):
        load_model(path)
