"""The pages on the architecture tell the truth: every file and name exists, every size is the config's, the picture is
what its script draws."""

import ast
import re
import runpy
from functools import reduce
from pathlib import Path

import pytest

from small4.model.config import ModelConfig
from small4.train.presets import NANO_SHAPE

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("docs/architecture.md", "docs/latent-attention.md", "docs/engine.md")
PICTURE = ROOT / "docs" / "images" / "architecture.svg"
SYMBOL = re.compile(r"`((?:small4|tests|tools)/[\w/]+\.py): ([\w.]+)`")
FILE = re.compile(r"\b(?:small4|tests|tools|docs)/[\w/-]+\.(?:py|md|svg)\b")
ROW = re.compile(r"^\| ([`*])([\w .]+)\1 \|[ \w]* \| ([\w,]+) \| ([\w,]+) \|$", re.MULTILINE)


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def names_in(body: list[ast.stmt]) -> dict[str, list[ast.stmt]]:
    """What a module or class defines, each with its own body; attributes set on `self` count as the class's."""
    names: dict[str, list[ast.stmt]] = {}
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names[node.name] = node.body if isinstance(node, ast.ClassDef) else []
            names |= {name: [] for name in self_attributes(node)} if isinstance(node, ast.FunctionDef) else {}
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id: [] for target in targets if isinstance(target, ast.Name)}
    return names


def self_attributes(function: ast.FunctionDef) -> set[str]:
    return {
        node.attr
        for node in ast.walk(function)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self"
    }


def is_defined(path: str, symbol: str) -> bool:
    body = ast.parse((ROOT / path).read_text(encoding="utf-8")).body
    for name in symbol.split("."):
        names = names_in(body)
        if name not in names:
            return False
        body = names[name]
    return True


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_a_page_names_exists(page: str) -> None:
    files = set(FILE.findall(text_of(page)))
    assert files
    assert [name for name in sorted(files) if not (ROOT / name).is_file()] == []


@pytest.mark.parametrize("page", PAGES)
def test_every_symbol_that_a_page_names_exists(page: str) -> None:
    named = sorted(set(SYMBOL.findall(text_of(page))))
    assert len(named) >= 5
    assert [f"{path}: {symbol}" for path, symbol in named if not is_defined(path, symbol)] == []


@pytest.mark.parametrize("page", PAGES)
def test_a_name_behind_a_file_is_always_in_the_form_that_is_looked_up(page: str) -> None:
    assert text_of(page).count(".py: ") == len(SYMBOL.findall(text_of(page)))


@pytest.mark.parametrize("symbol", ["Transformer.gone", "gone", "Transformer.forward.x_TD"])
def test_a_name_that_is_gone_is_noticed(symbol: str) -> None:
    assert is_defined("small4/model/transformer.py", "Transformer.forward")
    assert not is_defined("small4/model/transformer.py", symbol)


def test_sizes_in_the_table_are_those_of_the_configs() -> None:
    rows = {name: (large, nano) for mark, name, large, nano in ROW.findall(text_of(PAGES[0])) if mark == "`"}
    assert len(rows) == 17
    for name, cells in rows.items():
        values = (reduce(getattr, name.split("."), config) for config in (ModelConfig(), NANO_SHAPE))
        assert cells == tuple(_written(value) for value in values), name


def _written(value: float) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,.0f}"


def test_counts_in_the_table_are_those_of_the_models() -> None:
    rows = {name: (large, nano) for mark, name, large, nano in ROW.findall(text_of(PAGES[0])) if mark == "*"}
    counts = [_counts(config) for config in (ModelConfig(), NANO_SHAPE)]
    assert set(rows) == set(counts[0])
    for name, cells in rows.items():
        assert cells == tuple(f"{count[name]:,}" for count in counts), name


def _counts(config: ModelConfig) -> dict[str, int]:
    import torch

    from small4.model.transformer import Transformer

    with torch.device("meta"):
        sizes = {name: parameter.numel() for name, parameter in Transformer(config).named_parameters()}
    assert config.moe is not None
    routed = sum(size for name, size in sizes.items() if ".experts." in name)
    image = sum(size for name, size in sizes.items() if not name.startswith(("layers", "tok", "norm", "output")))
    used = routed * config.moe.num_experts_per_tok // config.moe.num_experts
    return {
        "parameters": sum(sizes.values()),
        "of which a text token meets": sum(sizes.values()) - image - routed + used,
        "cached values per token": config.n_layers * config.kv_width,
    }


def test_picture_is_what_its_script_draws() -> None:
    draw = runpy.run_path(str(ROOT / "tools" / "draw_architecture.py"))["draw"]
    assert PICTURE.read_text(encoding="utf-8") == draw(), "run python -m tools.draw_architecture and look at the result"


def test_files_that_the_picture_names_exist() -> None:
    files = FILE.findall(PICTURE.read_text(encoding="utf-8"))
    assert len(files) >= 4
    assert [name for name in files if not (ROOT / name).is_file()] == []
