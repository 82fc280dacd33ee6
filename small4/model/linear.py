"""The linear layer of the model, without bias: with plain weights, or with packed ones for inference."""

from torch import Tensor, nn

from small4.kernels.linear import linear
from small4.kernels.ops import Kernels
from small4.kernels.quantized import PackedWeight


class Linear(nn.Linear):
    """x W^T, by the fastest kernel for the number of rows."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight)


class PackedLinear(nn.Module):
    """x W^T with int8 or int4 weights. It has no parameters: packed weights are neither trained nor saved."""

    def __init__(self, weight: PackedWeight, kernels: Kernels) -> None:
        super().__init__()
        self.weight = weight
        self.product = kernels.linear(weight)

    def forward(self, x_TD: Tensor) -> Tensor:
        return self.product(x_TD.contiguous())
