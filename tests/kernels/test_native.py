"""The C++ kernels equal their definitions on every instruction set of this machine, and refuse what is outside."""

import os
import threading

import pytest
import torch
from torch import Tensor

from small4.kernels.cpu.build import BuildError, find_or_build
from small4.kernels.cpu.native import NativeKernels
from small4.kernels.quantized import Kind, PackedWeight, pack, packed_experts, packed_linear
from small4.kernels.reference import routed_experts, swiglu

ISAS = ("avx512-bf16", "avx512-vnni", "avx2", "plain")


@pytest.fixture(params=ISAS)
def kernels(request: pytest.FixtureRequest) -> NativeKernels:
    try:
        return NativeKernels(find_or_build(), request.param)
    except (BuildError, ValueError) as error:
        pytest.skip(str(error))


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def assert_near(found: Tensor, wanted: Tensor, share: float) -> None:
    """No element off by more than `share` of the largest."""
    assert found.shape == wanted.shape
    assert float((found.double() - wanted.double()).abs().max()) <= share * float(wanted.abs().max())


@pytest.mark.parametrize("kind", ["int8", "int4"])
@pytest.mark.parametrize(("rows", "columns"), [(16, 32), (37, 96), (256, 1024)])
@pytest.mark.parametrize("num_tokens", [1, 2, 3, 5, 8, 9, 70])
def test_products_with_packed_weights_equal_the_definition(
    kernels: NativeKernels, kind: Kind, rows: int, columns: int, num_tokens: int
) -> None:
    x_TD, weight = normal(num_tokens, columns), pack(normal(rows, columns, seed=1), kind)
    x_TD[num_tokens // 2, :32] = 0
    assert_near(kernels.linear(weight)(x_TD), packed_linear(x_TD, weight), 2e-6)


@pytest.mark.parametrize(("rows", "columns"), [(16, 7), (37, 100), (64, 1024)])
@pytest.mark.parametrize("num_tokens", [1, 2, 3, 5, 70])
def test_products_with_bf16_weights_equal_the_plain_product(
    kernels: NativeKernels, rows: int, columns: int, num_tokens: int
) -> None:
    x_TD, weight = normal(num_tokens, columns), normal(rows, columns, seed=1).to(torch.bfloat16)
    assert_near(kernels.linear(weight)(x_TD), x_TD.double() @ weight.double().T, 2e-6)


@pytest.mark.parametrize("kind", ["int8", "int4", None])
def test_bf16_activations_are_rounded_once_at_the_end(kernels: NativeKernels, kind: Kind | None) -> None:
    x_TD, dense = normal(3, 64).to(torch.bfloat16), normal(40, 64, seed=1).to(torch.bfloat16)
    weight = dense if kind is None else pack(dense, kind)
    run = kernels.linear(weight)
    assert torch.equal(run(x_TD), run(x_TD.float()).to(torch.bfloat16))


def experts_case(kind: Kind | None, num_tokens: int, shared_width: int | None):
    """Weights of 6 experts, a shared one if it has a width, and a routing in which some experts stay idle."""
    stacks = [normal(6, 128, 96, seed=1) / 8, normal(6, 96, 64, seed=2) / 8]
    if shared_width is not None:
        stacks += [normal(1, 2 * shared_width, 96, seed=3) / 8, normal(1, 96, shared_width, seed=4) / 8]
    weights = [stack.to(torch.bfloat16) if kind is None else pack(stack, kind) for stack in stacks]
    generator = torch.Generator().manual_seed(5)
    ids = torch.stack([torch.randperm(5, generator=generator)[:2] for _ in range(num_tokens)])
    return normal(num_tokens, 96), torch.rand(num_tokens, 2, generator=generator), ids, weights


@pytest.mark.parametrize("kind", ["int8", "int4", None])
@pytest.mark.parametrize("shared_width", [None, 64, 32])
@pytest.mark.parametrize("num_tokens", [1, 3, 33, 200])
def test_experts_equal_the_definition(
    kernels: NativeKernels, kind: Kind | None, shared_width: int | None, num_tokens: int
) -> None:
    x_TD, p_TK, ids_TK, weights = experts_case(kind, num_tokens, shared_width)
    every = torch.zeros(num_tokens, 1, dtype=torch.int64)
    if kind is None:
        weights32 = [weight.float() for weight in weights]
        wanted = routed_experts(x_TD, p_TK, ids_TK, *weights32[:2])
        if shared_width:
            wanted = wanted + swiglu(x_TD @ weights32[2][0].T) @ weights32[3][0].T
    else:
        wanted = packed_experts(x_TD, p_TK, ids_TK, *weights[:2])
        if shared_width:
            wanted = wanted + packed_experts(x_TD, torch.ones(num_tokens, 1), every, *weights[2:])
    shared = (weights[2], weights[3]) if shared_width else None
    found = kernels.experts(weights[0], weights[1], shared)(x_TD, p_TK, ids_TK)
    # A hidden value on the border between two codes may fall to either side: a 127th of a group's largest.
    assert_near(found, wanted, 2e-6 if kind is None else 2e-3)
    assert_median_near(found, wanted, 1e-6)


def assert_median_near(found: Tensor, wanted: Tensor, share: float) -> None:
    assert float((found.double() - wanted.double()).abs().median()) <= share * float(wanted.abs().max())


@pytest.mark.parametrize("kind", ["int8", "int4", None])
def test_a_row_has_the_same_result_whatever_is_beside_it(kernels: NativeKernels, kind: Kind | None) -> None:
    x_TD, p_TK, ids_TK, weights = experts_case(kind, 21, 64)
    run = kernels.experts(weights[0], weights[1], (weights[2], weights[3]))
    together = run(x_TD, p_TK, ids_TK)
    alone = [run(x_TD[i : i + 1], p_TK[i : i + 1], ids_TK[i : i + 1]) for i in range(21)]
    assert torch.equal(together, torch.cat(alone))
    matrix = weights[0][0] if isinstance(weights[0], Tensor) else PackedWeight(kind, 128, 96, weights[0].strips[0])
    product = kernels.linear(matrix)
    assert torch.equal(product(x_TD), torch.cat([product(row[None]) for row in x_TD]))


@pytest.mark.parametrize("num_threads", [1, 2, 5])
def test_threads_change_nothing(kernels: NativeKernels, num_threads: int) -> None:
    x_TD, p_TK, ids_TK, weights = experts_case("int4", 50, 64)
    run = kernels.experts(weights[0], weights[1], (weights[2], weights[3]))
    before = torch.get_num_threads()
    wanted = run(x_TD, p_TK, ids_TK)
    try:
        torch.set_num_threads(num_threads)
        for _ in range(50):
            assert torch.equal(run(x_TD, p_TK, ids_TK), wanted)
    finally:
        torch.set_num_threads(before)


def test_callers_on_several_threads_do_not_mix_their_results(kernels: NativeKernels) -> None:
    x_TD, p_TK, ids_TK, weights = experts_case("int4", 50, 64)
    run = kernels.experts(weights[0], weights[1])
    calls = [(x_TD + shift, p_TK, ids_TK) for shift in range(3)]
    wanted = [run(*call) for call in calls]
    wrong: list[int] = []

    def repeat(index: int) -> None:
        wrong.extend(index for _ in range(40) if not torch.equal(run(*calls[index]), wanted[index]))

    threads = [threading.Thread(target=repeat, args=(index,)) for index in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child_computes_without_the_workers_of_its_parent(kernels: NativeKernels) -> None:
    x_TD, p_TK, ids_TK, weights = experts_case("int4", 50, None)
    run = kernels.experts(weights[0], weights[1])
    wanted = run(x_TD, p_TK, ids_TK)
    child = os.fork()
    if child == 0:
        os._exit(0 if torch.equal(run(x_TD, p_TK, ids_TK), wanted) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_what_lies_outside_is_refused_before_it_is_read(kernels: NativeKernels) -> None:
    x_TD, p_TK, ids_TK, weights = experts_case("int4", 3, None)
    run = kernels.experts(weights[0], weights[1])
    for wrong in (-1, 6, 2**40):
        with pytest.raises(ValueError, match="there are 6"):
            run(x_TD, p_TK, ids_TK.masked_fill(ids_TK == 0, wrong).fill_(wrong))
    with pytest.raises(ValueError, match="rows of 96"):
        run(x_TD[:, :64].contiguous(), p_TK, ids_TK)
    with pytest.raises(ValueError, match="contiguous"):
        run(x_TD.T.contiguous().T, p_TK, ids_TK)
