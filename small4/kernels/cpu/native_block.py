"""Layers in one call of the C++ library, or a layer in two around an attention: a call takes as long as a small sum."""

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from small4.kernels.block import BlockWeights
from small4.kernels.cpu.binding import (
    OUTSIDE_PAGES,
    TYPES,
    ExpertWeightsStruct,
    Library,
    WeightStruct,
    can_attend,
    check_rows,
    check_tensors,
    experts_struct,
    gather_pages,
    pages_struct,
    raise_for,
    struct_of,
)
from small4.kernels.pages import CachePages
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


class _Chain(ctypes.Structure):
    _fields_ = (
        ("num", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("blocks", "rows", "scales", "norm")),
        ("eps", ctypes.c_float),
    )


class NativeBlock:
    """`ops.FusedBlock` with the weights of one layer."""

    def __init__(self, library: Library, weights: BlockWeights) -> None:
        self._library, self._weights = library, weights
        norms = (weights.attention_norm, weights.q_a_norm, weights.kv_a_norm, weights.ffn_norm)
        self._norms = [norm.detach().float().contiguous() for norm in norms]
        self.heads, self.nope, self.rope = weights.heads, weights.nope_dim, weights.rope_dim
        self.eps = weights.eps
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
        if not can_attend(self.latent + self.rope, self.latent):
            raise ValueError(f"cached rows of {self.latent} + {self.rope} values do not fit the kernel")
        self.address = ctypes.addressof(self._block)
        gather_pages(library, weights.wq_a, weights.wq_b, weights.wkv_a, weights.wkv_b, weights.wo)
        gather_pages(library, weights.w13, weights.w2, *(weights.shared or ()))

    def chain(self, following: Sequence["NativeBlock"], first_layer: int, norm: Tensor | None) -> "NativeChain":
        """This layer, the first that `CachePages` counts so, those behind it, and a norm of what comes out."""
        return NativeChain(self._library, [self, *following], first_layer, norm)

    def front(self, x_TD: Tensor, cos_TR: Tensor, sin_TR: Tensor, growth: Tensor | None) -> tuple[Tensor, Tensor]:
        """Queries [T, N, P + R] and new cache rows [T, L + R]."""
        tokens = self.tokens(x_TD, cos_TR, sin_TR, growth)
        query_TNH = x_TD.new_empty(tokens.num, self.heads, self.nope + self.rope)
        rows_TC = x_TD.new_empty(tokens.num, self.latent + self.rope)
        code = self._library.block_front(
            *(self._library.isa, torch.get_num_threads(), self.address, ctypes.addressof(tokens)),
            *(x_TD.data_ptr(), TYPES[x_TD.dtype], query_TNH.data_ptr(), rows_TC.data_ptr()),
        )
        raise_for(code, "")
        return query_TNH, rows_TC

    def back(self, x_TD: Tensor, values_TNV: Tensor) -> Tensor:
        """The layer's output from its input and the values that attention gave."""
        num = check_rows(x_TD, self.width)
        values_TNV = values_TNV.contiguous()
        if values_TNV.shape != (num, self.heads, self._block.value) or values_TNV.dtype != x_TD.dtype:
            wanted = [num, self.heads, self._block.value]
            raise ValueError(f"attention gave {list(values_TNV.shape)}, wanted is {wanted}")
        out_TD = torch.empty_like(x_TD)
        code = self._library.block_back(
            *(self._library.isa, torch.get_num_threads(), self.address, num),
            *(x_TD.data_ptr(), values_TNV.data_ptr(), TYPES[x_TD.dtype], out_TD.data_ptr()),
        )
        raise_for(code, "")
        return out_TD

    def tokens(self, x_TD: Tensor, cos_TR: Tensor, sin_TR: Tensor, growth: Tensor | None) -> _Tokens:
        """The addresses of one pass's tables."""
        num = check_rows(x_TD, self.width)
        tables = (cos_TR, sin_TR) if growth is None else (cos_TR, sin_TR, growth)
        check_tensors(*tables)
        if any(x.dtype != x_TD.dtype or x.shape[0] != num for x in tables) or cos_TR.shape[1] * 2 != self.rope:
            raise ValueError("the tables of positions do not fit the rows")
        return _Tokens(num, *(table.data_ptr() for table in tables))

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


class NativeChain:
    """`ops.FusedChain` of layers that have the same widths."""

    def __init__(self, library: Library, blocks: Sequence[NativeBlock], first_layer: int, norm: Tensor | None) -> None:
        self._library, self._blocks, self._first_layer = library, blocks, first_layer
        widths = {(block.width, block.latent, block.rope) for block in blocks}
        if len(widths) != 1:
            raise ValueError(f"layers of one chain have the same widths, these have {sorted(widths)}")
        self._addresses = (ctypes.c_void_p * len(self._blocks))(*(block.address for block in blocks))
        self._cache: Sequence[Tensor] | None = None  # what the pointers below lead to
        self._rows = (ctypes.c_void_p * len(self._blocks))()
        self._scales = (ctypes.c_void_p * len(self._blocks))()
        self._norm = None if norm is None else norm.detach().float().contiguous()
        if self._norm is not None and self._norm.shape != (blocks[0].width,):
            raise ValueError(f"the norm has {list(self._norm.shape)} weights, the layers have width {blocks[0].width}")
        self._chain = _Chain(
            len(blocks),
            *(ctypes.addressof(x) for x in (self._addresses, self._rows, self._scales)),
            *(None if self._norm is None else self._norm.data_ptr(), blocks[0].eps),
        )

    def __call__(
        self, x_TD: Tensor, cos_TR: Tensor, sin_TR: Tensor, growth: Tensor | None, pages: CachePages, scale: float
    ) -> Tensor:
        """The last layer's output [T, D] over pages, which keep the new rows."""
        first = self._blocks[0]
        tokens, struct = first.tokens(x_TD, cos_TR, sin_TR, growth), pages_struct(pages.of(self._first_layer))
        if struct.width != first.latent + first.rope:
            raise ValueError(f"cached rows have {struct.width} values, the layers make {first.latent + first.rope}")
        if pages.layers is not self._cache:
            self._bind(pages)
        out_TD = torch.empty_like(x_TD)
        code = self._library.chain(
            *(self._library.isa, torch.get_num_threads(), ctypes.addressof(self._chain), ctypes.addressof(tokens)),
            *(ctypes.addressof(struct), scale, x_TD.data_ptr(), TYPES[x_TD.dtype], out_TD.data_ptr()),
        )
        raise_for(code, OUTSIDE_PAGES)
        return out_TD

    def _bind(self, pages: CachePages) -> None:
        """Note where the layers' rows lie, once for a cache, after all checks that `pages_struct` makes."""
        layers = range(self._first_layer, self._first_layer + len(self._blocks))
        for i, layer in enumerate(layers):
            struct = pages_struct(pages.of(layer))
            if pages.layers[layer].shape != pages.layers[layers[0]].shape:
                raise ValueError("the caches of a chain's layers have one shape")
            self._rows[i], self._scales[i] = struct.rows, struct.scales
        self._cache = pages.layers
