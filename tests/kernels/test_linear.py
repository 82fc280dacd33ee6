"""One row takes another kernel: same product, and torch's switch stands as before when it is over."""

import threading

import pytest
import torch
import torch.nn.functional as F

from small4.kernels.linear import PAST_ONEDNN, linear


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("num_tokens", [1, 2, 7])
def test_linear_equals_the_plain_product(num_tokens: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    x_TD = torch.randn(num_tokens, 300, generator=generator).to(dtype)
    weight = torch.randn(170, 300, generator=generator).to(dtype)
    out = linear(x_TD, weight)
    assert out.dtype == dtype
    torch.testing.assert_close(out.double(), x_TD.double() @ weight.double().T, rtol=2**-8, atol=1e-4)


def test_one_row_has_the_gradients_of_the_plain_product() -> None:
    weight = torch.randn(20, 300).to(torch.bfloat16).requires_grad_()
    x_TD = torch.randn(1, 300).to(torch.bfloat16)
    gradients = [torch.autograd.grad(run(x_TD, weight).sum(), weight)[0] for run in (linear, F.linear)]
    torch.testing.assert_close(*gradients)


def test_the_switch_is_turned_back_after_an_error() -> None:
    with pytest.raises(RuntimeError):
        linear(torch.zeros(1, 3, dtype=torch.bfloat16), torch.zeros(2, 5, dtype=torch.bfloat16))
    assert torch.backends.mkldnn.enabled


def test_threads_inside_at_once_leave_the_switch_as_it_was() -> None:
    inside = threading.Barrier(2)

    def overlap() -> None:
        with PAST_ONEDNN:
            inside.wait(10)
            assert not torch.backends.mkldnn.enabled

    threads = [threading.Thread(target=overlap) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torch.backends.mkldnn.enabled
