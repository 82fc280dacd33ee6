"""Weights of a model in memory become int8 or int4, and layers are bound to fused kernels, for inference on the CPU.

What is packed: the projections of attention, the experts and dense feed-forwards, and the output head. What stays as it
is: norms and gates (small, and rounding a gate sends tokens to other experts), embeddings (one row is read per token),
`wkv_b` (absorbed attention multiplies by it from both sides, head by head), and the image path. Under int4 these are
int8: the head, `wkv_a_with_mqa` (its output is cached and read by every later token), and rows shorter than 256, whose
few bytes buy nothing (docs/decisions/0009-packed-weights.md has the measurements).
"""

import torch
from torch import Tensor, nn

from small4.errors import ConfigError
from small4.kernels.ops import Kernels, backend
from small4.kernels.quantized import GROUP, Kind, PackedWeight, can_pack
from small4.model.draft_head import DraftHead
from small4.model.fused import FusedLayer, FusedStack, fuse
from small4.model.layers import SwiGLU
from small4.model.linear import Linear, PackedLinear
from small4.model.moe import Experts, PackedExperts
from small4.model.transformer import Block, Transformer

MIN_INT4_COLUMNS = 256
PLAIN = ("gate", "wkv_b")


def quantize_model(
    model: Transformer, kind: Kind, kernels: Kernels | None = None, *, min_int4_columns: int = MIN_INT4_COLUMNS
) -> None:
    """Pack the weights in place, layer by layer, so that no more than one layer is held twice."""
    if kind not in ("int8", "int4"):
        raise ConfigError(f"quant is {kind!r}; it must be int8 or int4")
    if any(isinstance(module, PackedLinear | PackedExperts) for module in model.modules()):
        raise ConfigError("the weights are packed already; load the model again to pack them otherwise")
    packer = _Packer(kind, kernels or backend(), min_int4_columns)
    with torch.no_grad():
        for block in model.layers:
            assert isinstance(block, Block)
            packer.pack_block(block)
        head = model.output.weight if isinstance(model.output, Linear) else model.tok_embeddings.weight
        if can_pack(head.shape[-1]):
            model.few_logits = None
            model.output = PackedLinear(packer.kernels.pack(head, "int8"), packer.kernels)
    fuse_model(model, packer.kernels)


def quantize_head(head: DraftHead, kind: Kind, kernels: Kernels | None = None) -> None:
    """Pack the weights of a draft head in place, as those of its target."""
    with torch.no_grad():
        _Packer(kind, kernels or backend(), MIN_INT4_COLUMNS).pack_linears(head)


def fuse_model(model: Transformer, kernels: Kernels) -> None:
    """Bind every layer to the kernel that fuses it, if there is one; the weights must not be replaced afterwards."""
    output = model.tok_embeddings.weight if model.output is None else model.output.weight
    if isinstance(output, Tensor) and output.dtype in (torch.bfloat16, torch.float32):
        model.few_logits = kernels.linear(output.detach())
    fused: list[FusedLayer] = []
    for block in model.layers:
        assert isinstance(block, Block)
        if block.moe is None:
            continue
        experts = block.experts
        assert isinstance(experts, Experts | PackedExperts)
        norms = block.attention_norm.weight, block.ffn_norm.weight
        shared = None if block.shared_experts is None else plain_shared(block.shared_experts)
        block.fused = fuse(block.layer, block.attention, norms, block.gate, experts, shared, kernels)
        if block.fused is not None:
            fused.append(block.fused)
    model.fused = FusedStack(fused, model.norm.weight) if len(fused) == len(model.layers) else None


def plain_shared(shared: SwiGLU) -> tuple[Tensor, Tensor]:
    """The shared expert as a stack of one; w1 and w3 move into one tensor, of which they stay views."""
    hidden = shared.w1.out_features
    with torch.no_grad():
        both = torch.cat([shared.w1.weight, shared.w3.weight])
        shared.w1.weight.data, shared.w3.weight.data = both[:hidden], both[hidden:]
        return both[None], shared.w2.weight.detach()[None]


class _Packer:
    def __init__(self, kind: Kind, kernels: Kernels, min_int4_columns: int) -> None:
        self.kind, self.kernels, self.min_int4_columns = kind, kernels, min_int4_columns

    def pack_block(self, block: Block) -> None:
        if block.moe is not None:
            self.pack_experts(block)
        self.pack_linears(block)

    def pack_linears(self, module: nn.Module) -> None:
        for parent in list(module.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, Linear) and name not in PLAIN and can_pack(child.in_features):
                    kind = "int8" if name == "wkv_a_with_mqa" else self.kind_for(child.weight)
                    setattr(parent, name, PackedLinear(self.kernels.pack(child.weight, kind), self.kernels))

    def pack_experts(self, block: Block) -> None:
        """Routed and shared experts together, all of one kind; where a width forbids it they stay as they are."""
        experts, shared = block.experts, block.shared_experts
        if not isinstance(experts, Experts) or experts.w13.shape[2] % GROUP or experts.w2.shape[2] % GROUP:
            return
        kind = min(self.kind_for(experts.w13), self.kind_for(experts.w2), key=("int8", "int4").index)
        packed_shared = None if shared is None else self.pack_shared(shared, kind)
        w13, w2 = self.kernels.pack(experts.w13, kind), self.kernels.pack(experts.w2, kind)
        block.experts = PackedExperts(w13, w2, packed_shared, self.kernels)
        block.shared_experts = None

    def pack_shared(self, shared: SwiGLU, kind: Kind) -> tuple[PackedWeight, PackedWeight]:
        w13 = torch.cat([shared.w1.weight, shared.w3.weight])
        return self.kernels.pack(w13, kind), self.kernels.pack(shared.w2.weight, kind)

    def kind_for(self, weight: Tensor) -> Kind:
        return "int8" if weight.shape[-1] < self.min_int4_columns else self.kind
