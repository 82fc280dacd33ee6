"""The fused layer equals the block that it stands for, whatever the weights, the attention and the tokens."""

import copy
import dataclasses

import pytest
import torch
from torch import Tensor

from small4.engine.config import CacheFormat
from small4.kernels.cpu.build import BuildError, find_or_build
from small4.kernels.cpu.native import NativeKernels
from small4.kernels.quantized import Kind
from small4.model.attention import Form
from small4.model.fused import FusedStack
from small4.model.quantize import fuse_model, quantize_model
from small4.model.transformer import Transformer
from small4.train.optim import initialise
from small4.train.presets import preset
from tests.kernels.test_native import ISAS
from tests.paged import PagedSequence


@pytest.fixture(params=ISAS)
def kernels(request: pytest.FixtureRequest) -> NativeKernels:
    try:
        return NativeKernels(find_or_build(), request.param)
    except (BuildError, ValueError) as error:
        pytest.skip(str(error))


def tiny_model() -> Transformer:
    """The test preset, with widths that the kernels take."""
    config = dataclasses.replace(preset("test").model, qk_rope_head_dim=16, q_lora_rank=32, kv_lora_rank=48)
    model = Transformer(config)
    initialise(model, config.n_layers, seed=3)
    return model.requires_grad_(False)


def fuse_everything(model: Transformer, kernels: NativeKernels) -> None:
    """As `fuse_model`, for any number of tokens."""
    fuse_model(model, kernels)
    for block in model.layers:
        assert block.fused is not None
        block.fused.is_packed = True


@torch.inference_mode()
def hidden(
    model: Transformer,
    sizes: list[int],
    form: Form | None,
    kernels: NativeKernels,
    cache_format: CacheFormat = "model",
) -> Tensor:
    """Hidden states of a sequence that is fed in pieces of `sizes` tokens."""
    tokens_T = torch.randint(0, 3072, (sum(sizes),), generator=torch.Generator().manual_seed(0))
    dtype = model.tok_embeddings.weight.dtype
    cache = PagedSequence(model.config, sum(sizes), dtype, cache_format=cache_format)
    cache.kernels = kernels
    pieces, start = [], 0
    for size in sizes:
        positions_T = torch.arange(start, start + size)
        pieces.append(model.hidden(tokens_T[start : start + size], positions_T, cache.next(size, form)))
        start += size
    return torch.cat(pieces)


def unfused(model: Transformer) -> Transformer:
    model = copy.copy(model)
    model.fused = None
    for block in model.layers:
        block.fused = None
    return model


@pytest.mark.parametrize("form", ["absorbed", "expanded"])
@pytest.mark.parametrize("sizes", [[1] * 5, [20, 1, 3]])
def test_a_fused_layer_equals_its_block(form: Form, sizes: list[int], kernels: NativeKernels) -> None:
    model = tiny_model()
    wanted = hidden(model, sizes, form, kernels)
    fuse_everything(model, kernels)
    found = hidden(model, sizes, form, kernels)
    assert not torch.equal(found, wanted)  # it is another path
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_a_fused_layer_equals_its_block_over_packed_weights(kind: Kind, kernels: NativeKernels) -> None:
    model = tiny_model()
    quantize_model(model, kind, kernels, min_int4_columns=0)
    assert all(block.fused is not None for block in model.layers)
    found = hidden(model, [20, 1, 1, 3], "absorbed", kernels)
    wanted = hidden(unfused(model), [20, 1, 1, 3], "absorbed", kernels)
    # Activations on the border between two codes may fall to either side; the middle row shows that most do not.
    errors_T = (found - wanted).square().mean(-1).sqrt() / wanted.square().mean(-1).sqrt()
    assert float(errors_T.median()) < 0.02


@pytest.mark.parametrize("form", ["absorbed", "expanded"])
def test_a_fused_layer_equals_its_block_over_an_fp8_cache(form: Form, kernels: NativeKernels) -> None:
    model, sizes = tiny_model(), [20, 1, 1, 3]
    wanted, exact = (hidden(model, sizes, form, kernels, cache_format) for cache_format in ("fp8", "model"))
    fuse_everything(model, kernels)
    found = hidden(model, sizes, form, kernels, "fp8")
    # A value on the border between two fp8 numbers may fall to either side, so most rows are near and none is far.
    errors_T, lost_T = ((x - wanted).square().mean(-1).sqrt() / wanted.square().mean(-1).sqrt() for x in (found, exact))
    assert float(errors_T.median()) < 1e-3 < 1e-2 < float(lost_T.median())
    assert float(errors_T.max()) < 0.05


@pytest.mark.parametrize("kind", ["int8", "int4", None])
def test_a_fused_row_does_not_depend_on_its_company(kind: Kind | None, kernels: NativeKernels) -> None:
    model = tiny_model().to(torch.bfloat16)
    if kind is None:
        fuse_model(model, kernels)
    else:
        quantize_model(model, kind, kernels, min_int4_columns=0)
    one_by_one, together = (hidden(model, sizes, "absorbed", kernels) for sizes in ([1] * 8, [8]))
    assert torch.equal(one_by_one, together)


@pytest.mark.parametrize("cache_format", ["model", "fp8"])
@pytest.mark.parametrize("kind", ["int8", "int4", None])
def test_layers_in_one_call_equal_one_after_the_other_bit_for_bit(
    kind: Kind | None, cache_format: CacheFormat, kernels: NativeKernels
) -> None:
    model = tiny_model().to(torch.bfloat16)
    if kind is None:
        fuse_model(model, kernels)
    else:
        quantize_model(model, kind, kernels, min_int4_columns=0)
    assert model.fused is not None
    model.norm, model.fused = torch.nn.Identity(), FusedStack([block.fused for block in model.layers], None)
    together = hidden(model, [7, 1, 1, 3], "absorbed", kernels, cache_format)
    model.fused = None
    assert torch.equal(together, hidden(model, [7, 1, 1, 3], "absorbed", kernels, cache_format))


def test_bf16_layers_are_fused_for_few_tokens_only(kernels: NativeKernels) -> None:
    model = tiny_model().to(torch.bfloat16)
    fuse_model(model, kernels)
    assert all(
        block.fused is not None and block.fused.takes(16) and not block.fused.takes(17) for block in model.layers
    )
    plain = tiny_model().to(torch.bfloat16)
    found, wanted = (hidden(m, [20, 1, 2], None, kernels).float() for m in (model, plain))
    assert float((found - wanted).square().mean().sqrt() / wanted.square().mean().sqrt()) < 0.05


def test_training_and_observers_see_the_plain_block(kernels: NativeKernels) -> None:
    model = tiny_model()
    wanted = hidden(model, [3], "absorbed", kernels)
    fuse_everything(model, kernels)
    seen: list[int] = []
    model.routing_observer = lambda layer, logits_TE, ids_TK: seen.append(layer)
    assert torch.equal(hidden(model, [3], "absorbed", kernels), wanted)
    assert seen == list(range(len(model.layers)))
