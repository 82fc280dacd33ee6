"""Without the library everything works through torch's own operators, and the choice is named."""

import pytest
import torch
from torch import Tensor

from small4.kernels.cpu import build
from small4.kernels.ops import backend
from small4.kernels.quantized import Kind, pack, unpack
from small4.kernels.reference import routed_experts, swiglu
from small4.kernels.with_torch import TorchKernels

KINDS: tuple[Kind | None, ...] = ("int8", "int4", None)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def stored(dense: Tensor, kind: Kind | None):
    """A weight, and the float32 numbers that it stands for."""
    if kind is None:
        return dense, dense
    packed = pack(dense, kind)
    return packed, unpack(packed)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_tokens", [1, 3, 40])
def test_torch_multiplies_by_the_numbers_that_the_weight_stands_for(kind: Kind | None, num_tokens: int) -> None:
    x_TD, (weight, dense) = normal(num_tokens, 96), stored(normal(37, 96, seed=1), kind)
    found = TorchKernels("test").linear(weight)(x_TD)
    torch.testing.assert_close(found, x_TD @ dense.T, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_tokens", [1, 3, 40])
def test_torch_sums_the_experts_that_were_chosen(kind: Kind | None, num_tokens: int) -> None:
    shapes = ((4, 64, 96), (4, 96, 32), (1, 128, 96), (1, 96, 64))
    weights, dense = zip(*(stored(normal(*shape, seed=i) / 8, kind) for i, shape in enumerate(shapes)), strict=True)
    shared = (weights[2][0], weights[3][0])
    x_TD, p_TK = normal(num_tokens, 96, seed=9), torch.rand(num_tokens, 2)
    ids_TK = torch.tensor([[3, 1]]).expand(num_tokens, 2)
    found = TorchKernels("test").experts(weights[0], weights[1], shared)(x_TD, p_TK, ids_TK)
    wanted = routed_experts(x_TD, p_TK, ids_TK, dense[0], dense[1]) + swiglu(x_TD @ dense[2][0].T) @ dense[3][0].T
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_the_choice_is_named() -> None:
    assert backend(native=False).name == "torch (asked for)"
    assert backend().name.startswith(("avx512", "avx2", "plain", "torch (no C++ compiler"))


def test_a_machine_without_compiler_uses_torch_and_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setattr(build, "COMPILERS", ("no-such-compiler",))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    kernels = backend.__wrapped__()
    assert kernels.name == "torch (no C++ compiler was found (looked for no-such-compiler))"


def test_a_compiler_that_fails_leaves_torch_and_its_own_message(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setattr(build, "FLAGS", ("--no-such-flag",))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if "no C++ compiler" in backend().name:
        pytest.skip("no compiler")
    assert "no-such-flag" in backend.__wrapped__().name
    assert not list(tmp_path.rglob("*.so"))


def test_a_library_that_others_can_write_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    library = tmp_path / "small4" / "kernels" / f"small4-{build.digest()}.so"
    library.parent.mkdir(parents=True)
    library.touch()
    library.chmod(0o777)
    with pytest.raises(build.BuildError, match="not yours alone"):
        build.find_or_build()


def test_changed_sources_have_another_library(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    before = build.digest()
    (tmp_path / "plain.cpp").write_text("// other\n")
    monkeypatch.setattr(build, "SOURCES", tmp_path)
    assert build.digest() != before
