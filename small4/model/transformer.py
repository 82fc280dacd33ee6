"""The network: token ids in, logits out. Start reading here.

    x = tok_embeddings[tokens], image rows written over [IMG] tokens
    per block: x += attention(attention_norm(x));  x += feed_forward(ffn_norm(x))
    logits = output(norm(x))

Tokens are packed: all sequences of a pass lie one after another in T, and the `Attention` argument alone knows where
one ends. Parameters carry the names of the official checkpoint.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from small4.errors import ImageError
from small4.kernels.linear import linear
from small4.kernels.ops import Product
from small4.model.attention import Attention, LatentAttention, Positions
from small4.model.config import ModelConfig
from small4.model.fused import FEW_TOKENS, FusedLayer, FusedStack
from small4.model.layers import RMSNorm, SwiGLU
from small4.model.linear import Linear
from small4.model.moe import Experts, RoutingObserver, choose_experts, is_moe_layer
from small4.model.rope import query_growth, rope_frequencies, rope_tables
from small4.model.vision import Adapter, PatchMerger, VisionEncoder, image_rows


class Transformer(nn.Module):
    """The text model, and the image path where the config has one."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.tok_embeddings = nn.Embedding(config.vocab_size, config.dim)
        if config.vision is not None:
            self.vision_encoder = VisionEncoder(config.vision)
            self.pre_mm_projector_norm = RMSNorm(config.vision.hidden_size, config.norm_eps)
            self.patch_merger = PatchMerger(config.vision)
            self.vision_language_adapter = Adapter(config)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.n_layers))
        self.norm = RMSNorm(config.dim, config.norm_eps)
        self.output: nn.Module | None = None if config.tied_embeddings else Linear(config.dim, config.vocab_size)
        self.few_logits: Product | None = None  # the output's product for few tokens; `quantize.fuse_model` sets it
        self.fused: FusedStack | None = None  # all layers in one call, where each is fused; the same sets it
        self.frequencies_R = rope_frequencies(config)  # not a buffer: it must stay float32 in a bf16 model
        self.routing_observer: RoutingObserver | None = None  # training listens here for balance and load

    def forward(
        self, tokens_T: Tensor, positions_T: Tensor, attention: Attention, images: Sequence[Tensor] = ()
    ) -> Tensor:
        """Logits [T, W] in the model's type. `images` are normalised pixels [C, height, width] in reading order."""
        return self.logits(self.hidden(tokens_T, positions_T, attention, images))

    def hidden(
        self, tokens_T: Tensor, positions_T: Tensor, attention: Attention, images: Sequence[Tensor] = ()
    ) -> Tensor:
        """Last hidden states after the final norm, [T, D]."""
        return self.run(self.embed(tokens_T, images), positions_T, attention)

    def run(self, x_TD: Tensor, positions_T: Tensor, attention: Attention) -> Tensor:
        """Embedded rows through all blocks and the final norm, [T, D]."""
        positions = position_tables(self.config, self.frequencies_R, positions_T, x_TD.dtype)
        if self.fused is not None and self.routing_observer is None and not torch.is_grad_enabled():
            normed_TD = self.fused(x_TD, positions, attention)
            if normed_TD is not None:
                return normed_TD
        for block in self.layers:
            x_TD = block(x_TD, positions, attention, self.routing_observer)
        out_TD: Tensor = self.norm(x_TD)
        return out_TD

    def embed(self, tokens_T: Tensor, images: Sequence[Tensor] = ()) -> Tensor:
        """Token rows [T, D], with the rows of image tokens taken from the image path."""
        x_TD: Tensor = self.tok_embeddings(tokens_T)
        if not images:
            return x_TD
        rows_ID = self.image_rows(images)
        assert self.config.vision is not None, "image_rows has checked it"
        is_image_T = tokens_T == self.config.vision.image_token_id
        num_places = int(is_image_T.sum())
        if num_places != rows_ID.shape[0]:
            raise ImageError(f"{len(images)} images make {rows_ID.shape[0]} rows, the prompt has room for {num_places}")
        return x_TD.masked_scatter(is_image_T[:, None], rows_ID)

    def image_rows(self, images: Sequence[Tensor]) -> Tensor:
        """What stands in place of the image tokens, [image tokens, D], in the model's type."""
        if self.config.vision is None:
            raise ImageError("this model has no image encoder; send text only")
        rows_ID = image_rows(
            self.vision_encoder, self.patch_merger, self.pre_mm_projector_norm, self.vision_language_adapter, images
        )
        return rows_ID.to(self.tok_embeddings.weight.dtype)

    def logits(self, hidden_TD: Tensor) -> Tensor:
        """Vocabulary scores [T, W] of normed hidden states."""
        if self.few_logits is not None and hidden_TD.shape[0] <= FEW_TOKENS and not torch.is_grad_enabled():
            return self.few_logits(hidden_TD.contiguous())
        if self.output is None:
            return linear(hidden_TD, self.tok_embeddings.weight)
        logits_TW: Tensor = self.output(hidden_TD)
        return logits_TW


class Block(nn.Module):
    """One layer: attention, then experts or a dense feed-forward, each around a residual."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.fused: FusedLayer | None = None  # `quantize.fuse_model` sets it
        self.moe = config.moe if is_moe_layer(config, layer) else None
        self.attention_norm = RMSNorm(config.dim, config.norm_eps)
        self.attention = LatentAttention(config, layer)
        self.ffn_norm = RMSNorm(config.dim, config.norm_eps)
        if self.moe is None:
            self.feed_forward = SwiGLU(config.dim, config.hidden_dim)
            return
        self.gate = Linear(config.dim, self.moe.num_experts)
        self.experts: nn.Module = Experts(config.dim, self.moe)
        num_shared = self.moe.num_shared_experts
        self.shared_experts = SwiGLU(config.dim, self.moe.expert_hidden_dim * num_shared) if num_shared else None

    def forward(
        self, x_TD: Tensor, positions: Positions, attention: Attention, observer: RoutingObserver | None = None
    ) -> Tensor:
        fused = self.fused
        if fused is not None and observer is None and fused.takes(x_TD.shape[0]) and not torch.is_grad_enabled():
            return fused(x_TD, positions, attention)
        x_TD = x_TD + self.attention(self.attention_norm(x_TD), positions, attention)
        return x_TD + self._feed_forward(self.ffn_norm(x_TD), observer)

    def _feed_forward(self, h_TD: Tensor, observer: RoutingObserver | None) -> Tensor:
        if self.moe is None:
            dense_TD: Tensor = self.feed_forward(h_TD)
            return dense_TD
        weights_TK, expert_ids_TK = choose_experts(self.gate, self.moe, self.layer, h_TD, observer)
        out_TD: Tensor = self.experts(h_TD, weights_TK, expert_ids_TK)
        if self.shared_experts is not None:
            out_TD = out_TD + self.shared_experts(h_TD)
        return out_TD


def position_tables(config: ModelConfig, frequencies_R: Tensor, positions_T: Tensor, dtype: torch.dtype) -> Positions:
    """Rotations and query growth of every token, once per pass."""
    cos_TR, sin_TR = rope_tables(frequencies_R, positions_T, dtype)
    growth = None
    if config.llama_4_scaling is not None:
        growth = query_growth(positions_T, config.llama_4_scaling, dtype)[:, None, None]
    return Positions(cos_TR, sin_TR, growth)
