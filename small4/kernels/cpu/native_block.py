"""A whole layer but its attention in two calls of the C++ library: for one token, calls cost more than sums."""

import ctypes

import torch
from torch import Tensor

from small4.kernels.block import BlockWeights
from small4.kernels.cpu.binding import (
    TYPES,
    ExpertWeightsStruct,
    Library,
    WeightStruct,
    check_rows,
    check_tensors,
    experts_struct,
    raise_for,
    struct_of,
)
from small4.kernels.quantized import STRIP


class _Block(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("width", "heads", "nope", "rope", "value", "query_rank", "latent")),
        *((name, ctypes.c_int64) for name in ("experts_per_token", "num_experts", "has_shared")),
        *((name, ctypes.c_float) for name in ("eps", "routed_scale")),
        *((name, ctypes.c_void_p) for name in ("attention_norm", "query_norm", "latent_norm", "ffn_norm")),
        *((name, WeightStruct) for name in ("wq_a", "wq_b", "wkv_a", "wkv_b", "wo", "gate")),
        *((name, ExpertWeightsStruct) for name in ("routed", "shared")),
    )


class _Tokens(ctypes.Structure):
    _fields_ = (
        ("num", ctypes.c_int64),
        ("cos", ctypes.c_void_p),
        ("sin", ctypes.c_void_p),
        ("growth", ctypes.c_void_p),
    )


class NativeBlock:
    """What comes before a layer's attention, and what comes after it."""

    def __init__(self, library: Library, weights: BlockWeights) -> None:
        self._library, self._weights = library, weights
        norms = (weights.attention_norm, weights.q_a_norm, weights.kv_a_norm, weights.ffn_norm)
        self._norms = [norm.detach().float().contiguous() for norm in norms]
        self.heads, self.nope, self.rope = weights.heads, weights.nope_dim, weights.rope_dim
        self.width, self.latent = norms[0].shape[0], norms[2].shape[0]
        # A plain matrix has at least a strip of rows; the kernel looks at the first num_experts.
        gate = weights.gate.detach()
        self._gate = torch.nn.functional.pad(gate, (0, 0, 0, max(0, STRIP - gate.shape[0])))
        wq_a = struct_of(weights.wq_a)
        routed = experts_struct(weights.w13, weights.w2)
        shared = routed if weights.shared is None else experts_struct(*weights.shared)
        if shared.w13.kind != routed.w13.kind:
            raise ValueError("the shared expert must be stored as the routed ones are")
        self._block = _Block(
            *(self.width, self.heads, self.nope, self.rope, weights.value_dim, wq_a.rows, self.latent),
            *(weights.experts_per_token, weights.gate.shape[0], weights.shared is not None),
            *(weights.eps, weights.routed_scale),
            *(norm.data_ptr() for norm in self._norms),
            *(wq_a, struct_of(weights.wq_b), struct_of(weights.wkv_a), struct_of(weights.wkv_b)),
            *(struct_of(weights.wo), struct_of(self._gate), routed, shared),
        )
        self._check_shapes()
        self._address = ctypes.addressof(self._block)

    def front(
        self, x_TD: Tensor, cos_TR: Tensor, sin_TR: Tensor, growth: Tensor | None, *, is_absorbed: bool
    ) -> tuple[Tensor, Tensor]:
        """Queries [T, N, L + R] if absorbed, else [T, N, P + R], and new cache rows [T, L + R]."""
        num = check_rows(x_TD, self.width)
        tables = (cos_TR, sin_TR) if growth is None else (cos_TR, sin_TR, growth)
        check_tensors(*tables)
        if (
            any(table.dtype != x_TD.dtype or table.shape[0] != num for table in tables)
            or cos_TR.shape[1] * 2 != self.rope
        ):
            raise ValueError("the tables of positions do not fit the rows")
        tokens = _Tokens(num, *(table.data_ptr() for table in tables))
        row_width = self.latent + self.rope
        query = x_TD.new_empty(num, self.heads, row_width if is_absorbed else self.nope + self.rope)
        rows_TC = x_TD.new_empty(num, row_width)
        code = self._library.block_front(
            *(self._library.isa, torch.get_num_threads(), self._address, ctypes.addressof(tokens)),
            *(x_TD.data_ptr(), TYPES[x_TD.dtype], is_absorbed, query.data_ptr(), rows_TC.data_ptr()),
        )
        raise_for(code, "")
        return query, rows_TC

    def back(self, x_TD: Tensor, attended: Tensor, *, is_absorbed: bool) -> Tensor:
        """The layer's output, from its input and mixes [T, N, L] if absorbed, else values [T, N, V]."""
        num = check_rows(x_TD, self.width)
        attended = attended.contiguous()
        width = self.latent if is_absorbed else self._block.value
        if attended.shape != (num, self.heads, width) or attended.dtype != x_TD.dtype:
            raise ValueError(f"attention gave {list(attended.shape)}, wanted is {[num, self.heads, width]}")
        out_TD = torch.empty_like(x_TD)
        code = self._library.block_back(
            *(self._library.isa, torch.get_num_threads(), self._address, num),
            *(x_TD.data_ptr(), attended.data_ptr(), TYPES[x_TD.dtype], is_absorbed, out_TD.data_ptr()),
        )
        raise_for(code, "")
        return out_TD

    def _check_shapes(self) -> None:
        """Every matrix against the widths that the kernel takes from elsewhere, lest it read past an end."""
        b, head, up = self._block, self.nope + self.rope, self.nope + self._weights.value_dim
        wanted = {
            "wq_a": (b.wq_a.rows, b.width),
            "wq_b": (b.heads * head, b.query_rank),
            "wkv_a": (b.latent + b.rope, b.width),
            "wkv_b": (b.heads * up, b.latent),
            "wo": (b.width, b.heads * b.value),
            "gate": (max(b.num_experts, STRIP), b.width),
        }
        for name, shape in wanted.items():
            weight = getattr(b, name)
            if (weight.rows, weight.columns) != shape:
                raise ValueError(f"{name} is {weight.rows} x {weight.columns}, wanted is {shape[0]} x {shape[1]}")
        for experts in (b.routed, b.shared):
            if experts.w13.columns != b.width or experts.w2.rows != b.width:
                raise ValueError(f"experts of width {experts.w13.columns}, wanted is {b.width}")
        if b.value < 16 or self._norms[1].shape[0] != b.query_rank or self._norms[3].shape[0] != b.width:
            raise ValueError("the widths do not fit the kernel")
