"""The command from outside: what it loads, where text goes, and how it ends."""

import json
import os
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from small4.cli import installed
from small4.cli.failures import mendable
from tests.cli.conftest import Small4

ROOT = Path(__file__).parents[2]


def process(program: str, *arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    """Run a program around the command as its own process, where what is loaded matters."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HOME": str(home / "hf")}
    environment.pop("HF_HUB_CACHE", None)
    return subprocess.run(
        [sys.executable, "-c", f"import os, sys\nfrom small4.cli.main import main\n{program}", *arguments],
        cwd=home,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


HEAVY = "('torch', 'numpy', 'rich', 'prompt_toolkit', 'huggingface_hub')"


def test_help_loads_neither_torch_nor_numpy(tmp_path: Path) -> None:
    program = f"try:\n    main(['--help'])\nfinally:\n    print([m for m in {HEAVY} if m in sys.modules])"
    done = process(program, home=tmp_path)
    assert done.stdout.startswith("Usage: small4")
    assert done.stdout.endswith("\n[]\n")


def test_python_m_small4_is_the_command(tmp_path: Path) -> None:
    program = "import runpy\nsys.argv = ['small4', '--version']\nrunpy.run_module('small4', run_name='__main__')"
    assert process(program, home=tmp_path).stdout.startswith("small4 ")


def test_help_lists_every_verb_with_its_purpose(small4: Small4) -> None:
    text = small4("--help").stdout
    for verb in ("run", "chat", "pull", "list", "rm", "show", "verify", "convert", "train", "eval", "serve", "keys"):
        assert f"\n  {verb} " in text
    assert "..." not in text.split("Commands:")[1]


@pytest.mark.parametrize(
    "verb",
    "run chat serve ps stop logs snippet launch keys pull list ls rm show verify convert train eval bench".split(),
)
def test_every_verb_has_help(verb: str, small4: Small4) -> None:
    done = small4(verb, "--help")
    assert done.returncode == 0
    assert done.stdout.startswith(f"Usage: small4 {verb} ")


def test_status_is_six_lines_and_loads_no_torch(tmp_path: Path) -> None:
    program = "try:\n    main([])\nfinally:\n    print('torch' in sys.modules)"
    lines = process(program, home=tmp_path).stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["small4", "nano", "model", "torch", "cache", "next", "False"]
    assert str(tmp_path / "hf" / "hub") in lines[4]


def test_status_as_json(small4: Small4, tmp_path: Path) -> None:
    status = json.loads(small4("--json").stdout)
    assert status["cache_path"] == str(tmp_path / "hub")
    assert status["small4_path"] is None
    assert status["next"]


def test_version_is_one_line(small4: Small4) -> None:
    assert small4("--version").stdout.startswith("small4 ")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["run", "nano"], "nothing is asked; give a question"),
        (["run", "nano", "   "], "nothing is asked"),
        (["run", "nano", "-"], "nothing is asked"),
        (["run", "nanoo", "hi"], "no model is called 'nanoo'; did you mean nano?"),
        (["run", "nanoo"], "no model is called 'nanoo'; did you mean nano?"),
        (["run", "zebra", "hi"], "no model is called 'zebra'; there are nano, small4"),
        (["run", "small4", "hi"], "small4 is not on this disk, as a path or in the hub cache"),
        (["run", "some/model", "hi"], "fetch it with: small4 pull some/model"),
        (["run", "./nowhere", "hi"], "there is nothing at nowhere"),
        (["run", "/nowhere/at/all", "hi"], "there is nothing at /nowhere/at/all"),
        (["run", "nano", "hi", "-e", "medium"], "unknown effort 'medium'; there are none and high"),
        (["run", "nano", "hi", "--budget", "-3"], "the thinking budget is -3"),
        (["run", "nano", "hi", "--max-tokens", "0"], "max tokens is 0; it must be at least 1"),
        (["run", "nano", "hi", "-a", "cat.png"], "there is no image at cat.png"),
        (["run", "nano", "hi", "-a", "."], ". is not a file"),
        (["run", "nano", "hi", "-a", "https://example.org/cat.png"], "images are given by path"),
        (["chat", "zebra"], "no model is called 'zebra'"),
        (["chat", "nano", "-e", "low"], "unknown effort 'low'"),
        (["list", "nowhere"], "nowhere is not a directory"),
        (["rm", "nano"], "nano is part of the installation"),
        (["rm", "zebra"], "no model called 'zebra'"),
        (["train", "giant"], "small4 cannot train 'giant'; it can: small4 train nano"),
        (["eval", "nano", "-e", "low"], "unknown effort 'low'"),
    ],
    ids=" ".join,
)
def test_a_mistake_is_one_message_and_exit_code_2(arguments: list[str], told: str, small4: Small4) -> None:
    done = small4(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("verb", [["run", "./empty", "hi"], ["chat", "./empty"]], ids=lambda verb: verb[0])
@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["-T", "9"], "temperature is 9.0; it must be a number from 0 to 5"),
        (["--top-p", "0"], "top_p is 0"),
        (["--seed", "-1"], "seed is -1"),
        (["-a", "torn.png"], "torn.png: the PNG image is corrupt"),
        (["-a", "nowhere.png"], "there is no image at nowhere.png"),
        (["-s", "\udcff"], "the text is not valid UTF-8"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_no_model_would_take_is_told_before_one_is_loaded(
    verb: list[str], options: list[str], told: str, small4: Small4, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()  # loading it would be a mistake of its own
    (tmp_path / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    done = small4(*verb, *options)
    assert done.returncode == 2
    assert told in done.stderr


def test_an_unknown_option_is_a_mistake_too(small4: Small4) -> None:
    done = small4("run", "--brightness", "3")
    assert done.returncode == 2
    assert "No such option: --brightness" in done.stderr


def test_standard_input_that_is_no_text_is_a_mistake(small4: Small4) -> None:
    done = small4("run", "nano", "-", stdin=b"a\xff")
    assert done.returncode == 2
    assert "standard input is not UTF-8 text at byte 1" in done.stderr


def test_an_image_over_the_limit_is_not_read(small4: Small4, tmp_path: Path) -> None:
    with (tmp_path / "big.png").open("wb") as file:
        file.truncate(11 * 2**20)
    done = small4("run", "nano", "hi", "-a", "big.png")
    assert done.returncode == 2
    assert "has 11534336 bytes, the limit is 10485760" in done.stderr


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Let `small4 list` end in an exception."""

    def fail(error: BaseException) -> None:
        def shipped() -> list[object]:
            raise error

        monkeypatch.setattr(installed, "_shipped", shipped)

    return fail


def test_a_bug_is_told_in_short_and_its_traceback_kept(
    small4: Small4, failing: Callable[[BaseException], None], tmp_path: Path
) -> None:
    failing(ZeroDivisionError("no"))
    done = small4("list")
    assert done.returncode == 1
    assert done.stderr.startswith("small4 has a bug: ZeroDivisionError: no")
    assert "Traceback" not in done.stderr
    (kept,) = (tmp_path / "state" / "small4").glob("crash-*.txt")
    assert str(kept) in done.stderr
    assert "ZeroDivisionError" in kept.read_text()
    assert (kept.stat().st_mode & 0o777, kept.parent.stat().st_mode & 0o777) == (0o600, 0o700)


def test_debug_shows_the_traceback_of_a_bug(
    small4: Small4, failing: Callable[[BaseException], None], tmp_path: Path
) -> None:
    failing(ZeroDivisionError("no"))
    done = small4("--debug", "list")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert not (tmp_path / "state").exists()


def test_control_c_anywhere_exits_with_130(small4: Small4, failing: Callable[[BaseException], None]) -> None:
    failing(KeyboardInterrupt())
    done = small4("list")
    assert (done.returncode, done.stderr) == (130, "")


INTERRUPTED = "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)\n"


def entry_point() -> str:
    """A program that does what the installed `small4` does."""
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    module, name = scripts["small4"].split(":")
    return f"from {module} import {name}; {name}()"


@pytest.mark.parametrize("package", ["typer", "torch"])
@pytest.mark.parametrize("command", [["-c", entry_point()], ["-m", "small4"]], ids=["small4", "python -m small4"])
def test_control_c_while_it_loads_exits_with_130_in_silence(package: str, command: list[str], tmp_path: Path) -> None:
    (tmp_path / f"{package}.py").write_text(INTERRUPTED)  # found before the real one
    done = subprocess.run(
        [sys.executable, *command, "run", "nano", "17+48"],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # a background job ignores it
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_nothing_is_loaded_before_control_c_is_taken_care_of() -> None:
    program = "import sys; before = set(sys.modules); import small4.__main__; print(*set(sys.modules) - before)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == {"small4", "small4.__main__"}


def test_what_the_system_refuses_is_told_with_its_path(
    small4: Small4, failing: Callable[[BaseException], None]
) -> None:
    failing(PermissionError(13, "Permission denied", "/somewhere"))
    done = small4("list")
    assert (done.returncode, done.stderr) == (2, "error: /somewhere: Permission denied\n")


def test_a_reader_that_goes_away_is_no_bug(tmp_path: Path) -> None:
    program = "reading, writing = os.pipe()\nos.close(reading)\nos.dup2(writing, 1)\nmain(['list', '--json'])"
    assert process(program, home=tmp_path).stderr == ""


def test_a_missing_extra_names_its_command() -> None:
    told = mendable(ModuleNotFoundError("No module named 'torch'", name="torch"))
    assert told == "torch is not installed; run: pip install 'small4[local]'"


def test_list_as_json_is_an_array(small4: Small4) -> None:
    rows = json.loads(small4("list", "--json").stdout)
    assert {row["name"] for row in rows} <= {"nano"}


def test_a_model_of_the_cache_is_listed_and_removed(small4: Small4, tmp_path: Path) -> None:
    snapshot = tmp_path / "hub" / "models--some--model" / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "params.json").write_text('{"q_lora_rank": 1, "kv_lora_rank": 1}')
    (snapshot / "consolidated.safetensors").touch()
    (row,) = [row for row in json.loads(small4("ls", "--json").stdout) if row["name"] != "nano"]
    assert (row["name"], row["format"], row["complete"]) == ("some/model", "native", True)
    assert "some/model" in small4("list").stdout
    refused = small4("rm", "some/model")
    assert refused.returncode == 2
    assert "give -y to agree" in refused.stderr
    assert small4("rm", "-y", "some/model").returncode == 0
    assert not snapshot.exists()
