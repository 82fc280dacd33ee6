"""A model with packed weights answers like the one whose weights those are, on every backend, and says what it kept."""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor

import small4
from small4.checkpoint.load import load_model
from small4.errors import ConfigError
from small4.kernels.ops import Kernels, backend
from small4.kernels.quantized import Kind, unpack
from small4.model.attention import FullAttention
from small4.model.linear import Linear, PackedLinear
from small4.model.moe import PackedExperts
from small4.model.quantize import quantize_model
from small4.model.transformer import Transformer
from tests.engine.tiny import tiny_model

NANO_PATH = Path(small4.__file__).parent / "nano"
TOKENS = torch.randint(0, 3072, (24,), generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=[True, False], ids=["native", "torch"])
def kernels(request: pytest.FixtureRequest) -> Kernels:
    return backend(native=request.param)


def logits(model: Transformer) -> Tensor:
    with torch.inference_mode():
        return model(TOKENS, torch.arange(len(TOKENS)), FullAttention([len(TOKENS)])).float()


def unpacked(plain: Transformer, packed: Transformer) -> Transformer:
    """A copy of `plain` with the numbers that the packed weights of `packed` stand for."""
    copied = copy.deepcopy(plain)
    modules = dict(copied.named_modules())
    with torch.no_grad():
        for name, module in packed.named_modules():
            if isinstance(module, PackedExperts):
                w13, w2, shared = module.weights
                modules[name].w13.copy_(unpack(w13))
                modules[name].w2.copy_(unpack(w2))
                assert shared is not None
                swiglu = modules[name.replace("experts", "shared_experts")]
                w1, w3 = unpack(shared[0]).chunk(2)
                for matrix, numbers in ((swiglu.w1, w1), (swiglu.w3, w3), (swiglu.w2, unpack(shared[1]))):
                    matrix.weight.copy_(numbers)
            elif isinstance(module, PackedLinear) and name != "output":
                modules[name].weight.copy_(unpack(module.weight))
    return copied


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_packed_weights_give_the_logits_of_the_numbers_they_stand_for(kind: Kind, kernels: Kernels) -> None:
    plain = tiny_model()
    packed = copy.deepcopy(plain)
    quantize_model(packed, kind, kernels, min_int4_columns=0)
    found, wanted = logits(packed), logits(unpacked(plain, packed))
    assert float((found - wanted).square().mean().sqrt() / wanted.std()) < 0.15  # activations are rounded, gates follow


def test_int4_is_farther_from_the_plain_model_than_int8() -> None:
    plain = tiny_model()
    errors = []
    for kind in ("int8", "int4"):
        packed = copy.deepcopy(plain)
        quantize_model(packed, kind, min_int4_columns=0)
        errors.append(float((logits(packed) - logits(plain)).square().mean()))
    assert 0 < 4 * errors[0] < errors[1]


def test_the_kinds_are_those_of_the_decision() -> None:
    model = tiny_model()
    quantize_model(model, "int4", min_int4_columns=0)
    kinds = {name: module.weight.kind for name, module in model.named_modules() if isinstance(module, PackedLinear)}
    assert kinds["output"] == "int8"
    assert {kind for name, kind in kinds.items() if name.endswith("wkv_a_with_mqa")} == {"int8"}
    assert {kind for name, kind in kinds.items() if name.endswith(("wq_a", "wo"))} == {"int4"}
    plain = {name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, Linear)}
    assert plain == {"gate", "wkv_b", "wq_b"}  # the last has 48 columns here, which is no multiple of 32


def test_narrow_rows_stay_at_eight_bits() -> None:
    model = tiny_model()
    quantize_model(model, "int4")
    modules = [module for module in model.modules() if isinstance(module, PackedLinear | PackedExperts)]
    assert modules
    assert {m.weight.kind if isinstance(m, PackedLinear) else m.weights[0].kind for m in modules} == {"int8"}


def test_the_packed_nano_speaks_like_the_plain_one(kernels: Kernels) -> None:
    plain = load_model(NANO_PATH)
    packed = load_model(NANO_PATH)
    quantize_model(packed, "int4", kernels)
    before, after = logits(plain).log_softmax(-1), logits(packed).log_softmax(-1)
    assert float((before.exp() * (before - after)).sum(-1).mean()) < 0.02


def test_packing_twice_or_to_an_unknown_kind_is_refused() -> None:
    model = tiny_model()
    with pytest.raises(ConfigError, match="int8 or int4"):
        quantize_model(model, "int3")  # type: ignore[arg-type]
    quantize_model(model, "int8")
    with pytest.raises(ConfigError, match="packed already"):
        quantize_model(model, "int4")
