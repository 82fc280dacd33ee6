"""The checks themselves: each passes on the tree as it is, and fails when its fault is planted in a copy."""

import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import environment
import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository's files under git, with the type checker's cache so that it need not begin anew."""
    target = tmp_path_factory.mktemp("copy") / "small4"
    listing = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    if (ROOT / ".mypy_cache").exists():
        shutil.copytree(ROOT / ".mypy_cache", target / ".mypy_cache")
    subprocess.run(["git", "init", "--quiet", str(target)], check=True)
    return target


@pytest.fixture
def plant(copy: Path):
    """A function that appends text to a file of the copy, or replaces it; the file is put back after the test."""
    before: dict[Path, str | None] = {}

    def write(name: str, text: str, *, replace: bool = False) -> None:
        path = copy / name
        before[path] = path.read_text() if path.exists() else None
        path.write_text(text if replace else (before[path] or "") + text)

    yield write
    for path, text in before.items():
        if text is None:
            path.unlink()
        else:
            path.write_text(text)


def check(root: Path, name: str) -> subprocess.CompletedProcess[str]:
    """`tools/check.py NAME` in `root`."""
    return subprocess.run([sys.executable, "tools/check.py", name], cwd=root, capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["format", "lint", "sizes", "banned", "imports", "types", "docs"])
def test_tree_passes_the_check_and_says_what_was_done(copy: Path, name: str) -> None:
    run = check(copy, name)
    assert run.returncode == 0, run.stdout
    assert run.stdout.startswith(f"{name}: ok")


# What is planted where, the check that must refuse it, and a word that its message must hold.
FAULTS = {
    "service half imports torch": ("imports", "small4/chat.py", "\nimport torch\n", "service half"),
    "service half imports the model": ("imports", "small4/chat.py", "\nimport small4.model.config\n", "downwards"),
    "tokenizer imports the model": ("imports", "small4/tokenizer/x.py", "import small4.model.config\n", "downwards"),
    "model half imports HTTP": ("imports", "small4/model/config.py", "\nimport urllib.request\n", "HTTP"),
    "a provider imports the engine": (
        "imports",
        "small4/providers/scripted.py",
        "\nimport small4.engine.config\n",
        "only the local one",
    ),
    "import upwards": ("imports", "small4/kernels/reference.py", "\nimport small4.model.config\n", "downwards"),
    "package without a place": ("imports", "small4/attic/__init__.py", "", "attic"),
    "700-line file": ("sizes", "small4/long.py", '"""Long."""\n' + "X = 1\n" * 699, "700 lines"),
    "function of 101 lines": ("sizes", "small4/long.py", "def f() -> None:\n" + "    f()\n" * 100, "101 lines"),
    "code in an __init__": ("sizes", "small4/model/__init__.py", "X = 1\n", "not empty"),
    "untyped function": ("types", "small4/chat.py", "\n\ndef untyped(x):\n    return x\n", "untyped"),
    "untyped function, by lint": ("lint", "small4/chat.py", "\n\ndef untyped(x):\n    return x\n", "ANN"),
    "wrong type": ("types", "small4/chat.py", '\n\nWRONG: int = "one"\n', "Incompatible types"),
    "import inside a function": (
        "lint",
        "small4/chat.py",
        "\n\ndef f() -> None:\n    import json\n\n    json\n",
        "PLC0415",
    ),
    "unformatted": ("format", "small4/chat.py", "\nX  =  1\n", "small4/chat.py"),
    "pickle": ("banned", "small4/chat.py", "\nimport pickle\n", "import of pickle"),
    "torch.load": ("banned", "small4/chat.py", "\ntorch.load('x')\n", "use of torch.load"),
    "torch.load by name": ("banned", "small4/chat.py", "\nfrom torch import load\n", "import of torch.load"),
    "eval": ("banned", "small4/chat.py", "\neval('1')\n", "use of eval"),
    "exec": ("banned", "small4/chat.py", "\nexec('1')\n", "use of exec"),
    "__import__": ("banned", "small4/chat.py", "\n__import__('os')\n", "use of __import__"),
    "yaml.load": ("banned", "small4/chat.py", "\nyaml.load('1')\n", "use of yaml.load"),
    "remote code": ("banned", "small4/chat.py", "\nf(trust_remote_code=True)\n", "argument trust_remote_code"),
    "registry host": ("banned", "README.md", "\nhttps://" + ".".join(("pypi", "org")) + "/simple\n", "registry host"),
    "path of a machine": ("banned", "docs/index.md", "\n/" + "root/models\n", "path of a machine"),
    "broken link": ("docs", "docs/index.md", "\n[nowhere](nowhere.md)\n", "nowhere.md"),
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_planted_fault_is_refused(copy: Path, plant, fault: str) -> None:
    name, path, text, message = FAULTS[fault]
    (copy / path).parent.mkdir(exist_ok=True)
    plant(path, text)
    run = check(copy, name)
    assert run.returncode == 1, run.stdout
    assert message in run.stdout


BROKEN_BLOCKS = {
    "unknown verb": "```console\n$ small4 chatt\n```\n",
    "unknown option": "<!-- test: parse -->\n```console\n$ small4 train nano --stepps 3\n```\n",
    "unknown target": "```console\n$ make runn\n```\n",
    "unknown program": "```sh\nsmal4 chat\n```\n",
    "other output": "<!-- test: output -->\n```console\n$ small4 --version\nsmall5\n```\n",
    "failing code": "```python\nimport small4.nothing\n```\n",
    "dead link": "[nowhere](nowhere.md)\n",
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", BROKEN_BLOCKS)
def test_broken_readme_fails_the_tests(copy: Path, plant, fault: str) -> None:
    plant("README.md", BROKEN_BLOCKS[fault], replace=True)  # alone, since the commands of the whole page take long
    command = [sys.executable, "-m", "pytest", "tests/test_docs.py", "-k", "README", "-p", "no:cacheprovider"]
    run = subprocess.run(command, cwd=copy, capture_output=True, text=True)
    assert run.returncode == 1, run.stdout
    assert run.stdout.count("FAILED tests/test_docs.py") == 1, run.stdout


def test_no_module_of_the_service_half_loads_torch() -> None:
    modules = [
        path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
        for part in (
            "errors.py",
            "chat.py",
            "answer.py",
            "hub/*.py",
            "tokenizer/*.py",
            "engine/sampling_rules.py",
            "providers/[ps]*.py",
        )
        for path in (ROOT / "small4").glob(part)
    ]
    program = f"import sys, {', '.join(modules)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == 0


def test_every_file_of_the_lock_is_pinned_by_hash_and_none_is_torch() -> None:
    for lock in ("run.txt", "dev.txt"):
        text = (ROOT / "requirements" / lock).read_text().replace("\\\n", " ")
        lines = [line for line in text.splitlines() if line and not line.lstrip().startswith("#")]
        assert all("==" in line and "--hash=sha256:" in line for line in lines)
        names = {line.split("==")[0] for line in lines}
        assert not {name for name in names if name in ("torch", "triton") or name.startswith("nvidia")}


def test_lock_for_development_holds_all_that_the_lock_for_running_holds() -> None:
    run, dev = (
        {line.rstrip(" \\") for line in (ROOT / "requirements" / name).read_text().splitlines() if "==" in line}
        for name in ("run.txt", "dev.txt")
    )
    assert run <= dev


def test_environment_is_stale_once_its_lock_or_torch_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "requirements").mkdir()
    (tmp_path / ".venv").mkdir()
    files = [tmp_path / "requirements" / name for name in ("run.txt", "dev.txt", "torch.txt")]
    for file in files:
        file.write_text("as it was")
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    monkeypatch.setattr(environment, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(environment, "TORCH", files[2])
    assert not environment.is_fresh("run")
    environment.stamp("run")
    environment.stamp("dev")
    assert environment.is_fresh("run")
    files[0].write_text("changed")
    assert not environment.is_fresh("run")
    assert environment.is_fresh("dev")
    files[2].write_text("changed")
    assert not environment.is_fresh("dev")


def test_no_package_brought_code_that_runs_when_python_starts() -> None:
    brought = {path.name for path in Path(sysconfig.get_path("purelib")).glob("*.pth")}
    assert brought <= {"distutils-precedence.pth", "_editable_impl_small4.pth"}  # setuptools; the clone in place


def build_wheel(root: Path, target: Path) -> Path:
    """The wheel of the tree at `root`, built without the net."""
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(target)]
    subprocess.run(build, cwd=root, check=True, capture_output=True)
    return next(target.glob("*.whl"))


@pytest.mark.slow
def test_wheel_holds_the_package_the_nano_and_the_licences(copy: Path, tmp_path: Path) -> None:
    names = set(zipfile.ZipFile(build_wheel(copy, tmp_path)).namelist())
    ours = {path.relative_to(copy).as_posix() for path in (copy / "small4").rglob("*") if path.is_file()}
    assert {name for name in ours if "__pycache__" not in name} <= names
    assert {name.rsplit("/", 1)[1] for name in names if "dist-info/licenses" in name} == {"LICENSE", "NOTICE"}


@pytest.mark.slow
def test_two_builds_of_one_tree_are_the_same_bytes(copy: Path, tmp_path: Path) -> None:
    first, second = build_wheel(copy, tmp_path / "first"), build_wheel(copy, tmp_path / "second")
    assert first.read_bytes() == second.read_bytes()
