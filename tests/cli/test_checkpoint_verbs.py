"""`show`, `verify`, `convert`, `run`, `chat` and `eval` on a checkpoint with random weights."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.cli.conftest import Small4


def test_show_tells_shape_format_and_what_is_missing(small4: Small4, checkpoint: Path) -> None:
    done = small4("show", str(checkpoint))
    assert done.returncode == 0
    assert "hf-fp8" in done.stdout
    assert "model of 2 layers of width 32, 2 heads" in done.stdout
    assert "4 per layer, 2 per token and 1 shared, width 32" in done.stdout
    assert done.stdout.endswith("missing     nothing\nunexpected  nothing\nmismatched  nothing\n")


def test_show_as_json_counts_parameters_by_component(small4: Small4, checkpoint: Path) -> None:
    facts = json.loads(small4("show", str(checkpoint), "--json").stdout)
    assert facts["format"] == "hf-fp8"
    assert sum(facts["parameters_by_component"].values()) == facts["parameters"]
    assert facts["config"]["n_layers"] == 2


def test_verify_says_that_a_good_checkpoint_is_sound(small4: Small4, checkpoint: Path) -> None:
    done = small4("verify", str(checkpoint))
    assert done.returncode == 0
    assert "is sound: hf-fp8" in done.stdout
    assert "digests match" in done.stdout


@pytest.fixture
def damaged(checkpoint: Path, tmp_path: Path) -> Path:
    """A copy with one bit turned in its last weight."""
    copy = tmp_path / "damaged"
    shutil.copytree(checkpoint, copy)
    weights = copy / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    return copy


def test_verify_names_what_is_damaged_and_exits_with_2(small4: Small4, damaged: Path) -> None:
    done = small4("verify", str(damaged))
    assert done.returncode == 2
    assert done.stdout == ""
    assert "model.safetensors" in done.stderr
    assert "problem(s); fetch or save it again" in done.stderr
    report = small4("verify", str(damaged), "--json")
    assert report.returncode == 2
    assert json.loads(report.stdout)["problems"]


def test_damage_is_found_at_load_unless_told_otherwise(small4: Small4, damaged: Path, tmp_path: Path) -> None:
    for verb in (["run", str(damaged), "17+48"], ["chat", str(damaged)]):
        refused = small4(*verb, "--max-tokens", "3")
        assert refused.returncode == 2
        assert "model.safetensors its digest is not the manifest's" in refused.stderr
        assert small4(*verb, "--max-tokens", "3", "--skip-digests").returncode == 0
    assert small4("convert", str(damaged), "laundered", "-f", "hf-bf16").returncode == 2
    assert not (tmp_path / "laundered").exists()


@pytest.fixture
def bare(checkpoint: Path, tmp_path: Path) -> Path:
    """A copy without a manifest, as other programs write."""
    copy = tmp_path / "bare"
    shutil.copytree(checkpoint, copy)
    (copy / "small4-manifest.json").unlink()
    return copy


def test_weights_without_a_tokenizer_are_sound_but_cannot_chat(small4: Small4, bare: Path) -> None:
    (bare / "tekken.json").unlink()
    shown, verified = small4("show", str(bare)), small4("verify", str(bare))
    assert "\ntokenizer   none, so it cannot chat: no tokenizer file" in shown.stdout
    assert verified.returncode == 0
    assert "is sound" in verified.stdout
    assert verified.stderr.startswith("warning: it cannot chat: no tokenizer file")
    assert len(json.loads(small4("verify", str(bare), "--json").stdout)["warnings"]) == 1


def test_a_tokenizer_that_cannot_be_used_is_damage(small4: Small4, bare: Path) -> None:
    os.truncate(bare / "tekken.json", 1000)
    shown, verified = small4("show", str(bare)), small4("verify", str(bare))
    assert "\ntokenizer   unusable, so it cannot chat: tekken.json is not JSON" in shown.stdout
    assert verified.returncode == 2
    assert verified.stderr.startswith("tekken.json: tekken.json is not JSON")


def test_a_tokenizer_that_the_manifest_lists_is_missed(small4: Small4, checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(checkpoint, tmp_path / "copy")
    (tmp_path / "copy" / "tekken.json").unlink()
    verified = small4("verify", "copy")
    assert verified.returncode == 2
    assert "tekken.json: is in the manifest, but not here" in verified.stderr


def test_another_models_tokenizer_is_damage(small4: Small4, bare: Path) -> None:
    from small4.checkpoint.save import save_model
    from small4.model.transformer import Transformer
    from small4.train.presets import TEST_SHAPE

    small = Transformer(replace(TEST_SHAPE, vocab_size=2000))
    for parameter in small.parameters():
        parameter.data.zero_()
    save_model(small, bare.parent / "small", format="hf-bf16", extra_files={"tekken.json": bare / "tekken.json"})
    verified = small4("verify", "small")
    assert verified.returncode == 2
    assert "tekken.json: the tokenizer has 3072 ids, the model 2000" in verified.stderr


@pytest.mark.parametrize("format", ["native-bf16", "hf-bf16", "nvfp4"])
def test_convert_writes_a_sound_checkpoint_with_its_tokenizer(
    format: str, small4: Small4, checkpoint: Path, tmp_path: Path
) -> None:
    done = small4("convert", str(checkpoint), "converted", "--format", format)
    assert done.returncode == 0
    assert done.stdout.startswith(f"converted  ({format}, ")
    assert (tmp_path / "converted" / "tekken.json").exists()
    assert json.loads(small4("verify", "converted", "--json").stdout)["problems"] == []


@pytest.mark.parametrize("verb", ["show", "verify"])
@pytest.mark.parametrize("name", ["nowhere/at/all", "./empty"])
def test_what_is_no_checkpoint_is_a_mistake(verb: str, name: str, small4: Small4, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = small4(verb, name)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")


def test_convert_refuses_an_unknown_format_and_a_full_directory(
    small4: Small4, checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").touch()
    unknown = small4("convert", str(checkpoint), "x", "-f", "int3")
    assert (unknown.returncode, unknown.stdout) == (2, "")
    assert "unknown format 'int3'; there are hf-bf16, " in unknown.stderr
    full = small4("convert", str(checkpoint), "precious", "-f", "hf-bf16")
    assert full.returncode == 2
    assert "precious holds files that small4 did not write" in full.stderr


def test_run_answers_from_a_directory(small4: Small4, checkpoint: Path) -> None:
    done = small4("run", str(checkpoint), "17+48", "--max-tokens", "5", "--json")
    assert done.returncode == 0
    answer = json.loads(done.stdout)
    assert answer["model"] == str(checkpoint)
    assert answer["usage"]["completion_tokens"] == 5
    assert answer["model_note"].endswith("(a small demonstration model of the same architecture, not Mistral Small 4)")
    assert "(cut off at the limit of 5 tokens; raise --max-tokens)" in done.stderr


def test_the_same_seed_gives_the_same_text(small4: Small4, checkpoint: Path) -> None:
    ask = ["run", str(checkpoint), "17+48", "--max-tokens", "8", "-T", "1", "--seed", "7"]
    assert small4(*ask).stdout == small4(*ask).stdout


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--temperature", "9"], "temperature is 9"),
        (["--top-p", "0"], "top_p is 0"),
        (["--top-k", "0"], "top_k is 0"),
        (["--min-p", "2"], "min_p is 2"),
        (["--seed", "-1"], "seed is -1"),
        (["--max-tokens", "99999"], "99999"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_the_sampler_refuses_is_a_mistake(options: list[str], told: str, small4: Small4, checkpoint: Path) -> None:
    done = small4("run", str(checkpoint), "17+48", *options)
    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_an_over_long_question_is_refused_with_both_numbers(small4: Small4, checkpoint: Path) -> None:
    done = small4("run", str(checkpoint), "-", stdin=b"1+" * 2000)
    assert done.returncode == 2
    assert "the limit is 2048" in done.stderr
    assert "the prompt has 40" in done.stderr


def test_an_image_for_a_model_without_eyes_is_refused(small4: Small4, checkpoint: Path, tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (8, 8)).save(tmp_path / "dot.png")
    done = small4("run", str(checkpoint), "what is it?", "-a", "dot.png")
    assert done.returncode == 2
    assert "image" in done.stderr


def test_chat_without_a_terminal_shows_one_question_and_exits_0(small4: Small4, checkpoint: Path) -> None:
    done = small4("chat", str(checkpoint), "--max-tokens", "5")
    assert done.returncode == 0
    assert "> 17+48+36+25\n" in done.stdout


def test_eval_prints_a_row_per_skill_and_effort(small4: Small4, checkpoint: Path) -> None:
    done = small4("eval", str(checkpoint), "--suite", "sum2", "--n", "1")
    assert done.returncode == 0
    header, *rows, seen = done.stdout.splitlines()
    assert header.split()[:4] == ["skill", "effort", "n", "accuracy"]
    assert seen == "1 different problems, 0 of them among 200 drawn as training draws"
    assert [row.split()[:3] for row in rows] == [["sum2", "none", "1"], ["sum2", "high", "1"]]


def test_eval_as_json_and_its_mistakes(small4: Small4, checkpoint: Path) -> None:
    printed = small4("eval", str(checkpoint), "--suite", "sum2", "-e", "none", "--n", "1", "--json").stdout
    record = json.loads(printed)
    assert [(row["skill"], row["effort"], row["n"]) for row in record["scores"]] == [("sum2", "none", 1)]
    assert record["contamination"]["seen"] == 0
    unknown = small4("eval", str(checkpoint), "--suite", "poetry")
    assert unknown.returncode == 2
    assert "poetry" in unknown.stderr


def test_a_list_finds_the_checkpoints_of_a_directory(small4: Small4, checkpoint: Path) -> None:
    names = [row["name"] for row in json.loads(small4("list", str(checkpoint.parent), "--json").stdout)]
    assert str(checkpoint) in names


@pytest.mark.slow
def test_a_quick_look_asks_twenty_problems(small4: Small4, checkpoint: Path) -> None:
    done = small4("eval", str(checkpoint), "--suite", "sum2", "-e", "none", "--quick")
    assert done.stdout.splitlines()[1].split()[:3] == ["sum2", "none", "20"]


@pytest.mark.slow
def test_train_makes_a_checkpoint_that_answers(small4: Small4, tmp_path: Path) -> None:
    train = ["train", "nano", "--preset", "test", "--out", "made", "--suite", "sum2", "--n", "2", "--threads", "1"]
    done = small4(*train)
    assert done.returncode == 0
    assert "step 20/20  loss " in done.stderr
    assert "tok/s  expert load " in done.stderr
    assert "small4 chat made/checkpoint" in done.stdout
    assert small4("verify", "made/checkpoint").returncode == 0
    again = small4(*train)
    assert again.returncode == 2
    assert "holds a training already; pass --resume" in again.stderr


def test_train_refuses_an_unknown_preset(small4: Small4) -> None:
    done = small4("train", "nano", "--preset", "giant")
    assert done.returncode == 2
    assert "unknown preset 'giant'" in done.stderr


@pytest.mark.parametrize("format", ["gguf-bf16", "gguf-q8_0"])
def test_a_gguf_file_is_shown_verified_and_asked(format: str, small4: Small4, checkpoint: Path) -> None:
    assert small4("convert", str(checkpoint), "tiny.gguf", "-f", format).returncode == 0
    assert f"format      {format}" in small4("show", "tiny.gguf").stdout
    assert "is sound" in small4("verify", "tiny.gguf").stdout
    shutil.copy(checkpoint / "tekken.json", "tekken.json")
    asked = small4("run", "tiny.gguf", "17+48", "--max-tokens", "2", "--json")
    assert json.loads(asked.stdout)["usage"]["completion_tokens"] == 2
