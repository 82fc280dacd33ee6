"""The two layers that every block shares: RMSNorm and the SwiGLU feed-forward."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from small4.kernels.reference import rms_norm
from small4.model.linear import Linear


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last dimension, in float32 inside."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps)


class SwiGLU(nn.Module):
    """w2(silu(w1 x) * w3 x): a dense feed-forward, and the shared expert."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.w1 = Linear(dim, hidden_dim)
        self.w2 = Linear(hidden_dim, dim)
        self.w3 = Linear(dim, hidden_dim)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.w2(F.silu(self.w1(x)) * self.w3(x))
        return out
