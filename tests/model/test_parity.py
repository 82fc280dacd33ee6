"""Logits equal the reference's on random configs, and the comparison notices the five classic mistakes."""

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

import small4.model.attention
from small4.model.attention import Form, LatentProjection
from tests.model.hugging_face import LONG_STARTS, Case, build_pair, draw_case
from tests.model.parity_cases import broken_gates, compare_decode, compare_prefill

SEEDS = range(24)


def some_by_default(seeds: range, count: int) -> list[Any]:
    """All seeds; those beyond the first `count` take part where slow tests do."""
    return [seed if seed < count else pytest.param(seed, marks=pytest.mark.slow) for seed in seeds]


Plant = Callable[[str, str], ModuleType]  # old and new text -> the changed module


@pytest.mark.parametrize("seed", some_by_default(SEEDS, 8))
def test_float32_logits_equal_the_reference(seed: int) -> None:
    case = draw_case(seed)
    pair = build_pair(case.config, seed, torch.float32)
    rows = [
        *compare_prefill(case, pair, [0, LONG_STARTS[seed % 4], LONG_STARTS[(seed + 1) % 4]]),
        *compare_decode(case, pair, [-2, LONG_STARTS[1 + seed % 3]], steps=4),
    ]
    assert broken_gates(rows, torch.float32) == []


@pytest.mark.parametrize("seed", some_by_default(SEEDS[:9], 4))
def test_bf16_logits_stay_within_the_gates(seed: int) -> None:
    case = draw_case(seed)
    pair = build_pair(case.config, seed, torch.bfloat16)
    rows = [*compare_prefill(case, pair, [0, *LONG_STARTS[seed % 4 :: 2]]), *compare_decode(case, pair, [-4], steps=8)]
    assert broken_gates(rows, torch.bfloat16) == []


def test_both_softmax_scales_are_among_the_cases() -> None:
    yarns = [draw_case(seed).config.yarn for seed in SEEDS]
    assert {yarn.apply_scale for yarn in yarns if yarn is not None} == {True, False}


def test_cases_see_one_and_two_images() -> None:
    assert {len(draw_case(seed).image_sizes) for seed in SEEDS} == {0, 1, 2}


# --- Mutations: each plants one mistake in the real code, and parity must break. ---

SMALL = Case(
    0,
    replace(
        draw_case(1).config, n_layers=3, n_heads=4, qk_nope_head_dim=16, qk_rope_head_dim=16, tied_embeddings=False
    ),
    (),
)


def is_parity_broken(form: Form) -> bool:
    """Whether the small case, read across position 8192, misses its float32 gate in this form."""
    pair = build_pair(SMALL.config, 7, torch.float32)
    rows = [row for row in compare_prefill(SMALL, pair, [8184]) if row.form == form]
    return broken_gates(rows, torch.float32) != []


@pytest.fixture
def mutate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plant:
    """Replace one line of attention.py and let new models use the changed file."""

    def plant(old: str, new: str) -> ModuleType:
        source = Path(small4.model.attention.__file__).read_text(encoding="utf-8")
        assert source.count(old) == 1, f"the line to mutate has changed: {old}"
        path = tmp_path / "mutated_attention.py"
        path.write_text(source.replace(old, new), encoding="utf-8")
        spec = importlib.util.spec_from_file_location("mutated_attention", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, "mutated_attention", module)
        spec.loader.exec_module(module)
        monkeypatch.setattr("small4.model.transformer.LatentAttention", module.LatentAttention)
        return module

    return plant


@pytest.mark.parametrize("form", ["expanded", "absorbed"])
def test_unmutated_code_passes(form: Form) -> None:
    assert not is_parity_broken(form)


@pytest.mark.parametrize("form", ["expanded", "absorbed"])
def test_folded_softmax_scale_breaks_parity(form: Form, mutate: Plant) -> None:
    mutate("self.scale = softmax_scale(config)", "self.scale = softmax_scale(config) * 2.20581")
    assert is_parity_broken(form)


@pytest.mark.parametrize("form", ["expanded", "absorbed"])
def test_query_without_growth_breaks_parity(form: Form, mutate: Plant) -> None:
    mutate("query_TNH = query_TNH * positions.growth", "pass")
    assert is_parity_broken(form)


@pytest.mark.parametrize("form", ["expanded", "absorbed"])
def test_half_split_rope_breaks_parity(form: Form, monkeypatch: pytest.MonkeyPatch) -> None:
    def rotate_halves(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        first, second = x.chunk(2, dim=-1)
        return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)

    monkeypatch.setattr("small4.model.attention.rotate_interleaved", rotate_halves)
    assert is_parity_broken(form)


@pytest.mark.parametrize("form", ["expanded", "absorbed"])
def test_rope_before_nope_breaks_parity(form: Form, mutate: Plant) -> None:
    mutate(
        "query_nope_TNP, query_rope_TNR = query_TNH.split([config.qk_nope_head_dim, config.qk_rope_head_dim], dim=-1)",
        "query_rope_TNR, query_nope_TNP = query_TNH.split([config.qk_rope_head_dim, config.qk_nope_head_dim], dim=-1)",
    )
    assert is_parity_broken(form)


def test_scaled_key_instead_of_query_breaks_parity(mutate: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    module = mutate("query_TNH = query_TNH * positions.growth", "type(self).key_growth = positions.growth")

    class ScaledKeys(LatentProjection):
        def expand(self, latent_SL: Tensor, rope_key_SR: Tensor) -> tuple[Tensor, Tensor]:
            key_SNH, value_SNV = super().expand(latent_SL, rope_key_SR)
            return key_SNH * module.LatentAttention.key_growth, value_SNV

    monkeypatch.setattr(module, "LatentProjection", ScaledKeys)
    assert is_parity_broken("expanded")
