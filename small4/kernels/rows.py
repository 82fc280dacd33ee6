"""Rows moved to other places, with a gradient that only moves them back.

    out = x[there]          there: where each row of out comes from; every row of x comes at least once
    grad x = grad out[back]         there[back[i]] = i

Indexing's own gradient adds row by row, since an index may repeat; where each row is wanted once, that costs a sixth of
a training step. Places of `out` that `back` does not name (padding) must carry no gradient; it would be dropped.
"""

from typing import Any

import torch
from torch import Tensor


def move_rows(x: Tensor, there: Tensor, back: Tensor) -> Tensor:
    """`x[there]` along the first dimension, differentiable; `there` may have more than one dimension."""
    moved: Tensor = _MoveRows.apply(x, there, back)  # type: ignore[no-untyped-call]
    return moved


class _MoveRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, there: Tensor, back: Tensor) -> Tensor:
        ctx.save_for_backward(back)
        ctx.places = there.dim()
        return x[there]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (back,) = ctx.saved_tensors
        return grads[0].flatten(0, ctx.places - 1)[back], None, None
