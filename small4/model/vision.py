"""The image encoder and the way from its patches to rows of the text sequence.

    patches = conv(pixels), one row per patch_size x patch_size square, row-major, all images packed
    x = RMSNorm(patches); per block: x += attention(RMSNorm(x)); x += swiglu(RMSNorm(x))      (no final norm)
    rows = w_out(gelu(w_in(merge(RMSNorm(x)))))      merge: 2 x 2 neighbouring patches -> one row

Attention is bidirectional and stays inside one image. Its rotary embedding has two axes: of the frequencies
f_j = theta^(-2j / head_dim), the even ones turn with the patch's row and the odd ones with its column.

Local shape letters: I patches of all images, J merged rows, D encoder width, N heads, H head width, C colours.
"""

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from small4.errors import ImageError
from small4.kernels.reference import rotate_interleaved
from small4.model.config import ModelConfig, VisionConfig
from small4.model.layers import RMSNorm, SwiGLU

Grid = tuple[int, int]  # rows and columns of patches in one image

# Attention scores held at once. The largest image has 12,100 patches: over 16 heads its whole score matrix would take
# 9 GB, so queries go in pieces; images small enough together are cheaper in one product than in many.
MAX_SCORE_BYTES = 64 * 1024 * 1024


def image_rows(
    encoder: "VisionEncoder", merger: "PatchMerger", norm: RMSNorm, adapter: "Adapter", images: Sequence[Tensor]
) -> Tensor:
    """Rows [J, text width] that replace the image tokens: images in the order given, each row-major.

    `images` are normalised pixels [C, H, W]; both sides are multiples of patch_size * spatial_merge_size.
    """

    def rows_of(some: Sequence[Tensor]) -> Tensor:
        patches_ID, grids = encoder(some)
        rows: Tensor = adapter(merger(norm(patches_ID), grids))
        return rows

    return _by_size(rows_of, images) if torch.is_grad_enabled() and len(images) > 1 else rows_of(images)


def _by_size(rows_of: Callable[[Sequence[Tensor]], Tensor], images: Sequence[Tensor]) -> Tensor:
    """The same rows, made of images of one size at a time: training has hundreds of few sizes, and those batch."""
    places: dict[torch.Size, list[int]] = {}
    for place, image in enumerate(images):
        places.setdefault(image.shape, []).append(place)
    rows_JD = [rows_of([images[place] for place in group]) for group in places.values()]
    num_rows = {
        place: len(rows) // len(group) for group, rows in zip(places.values(), rows_JD, strict=True) for place in group
    }
    order = [place for group in places.values() for place in group]
    starts = dict(zip(order, itertools.accumulate((num_rows[place] for place in order), initial=0), strict=False))
    index = [start + row for place, start in sorted(starts.items()) for row in range(num_rows[place])]
    return torch.cat(rows_JD)[torch.tensor(index, device=rows_JD[0].device)]


class VisionEncoder(nn.Module):
    """Pixels to one vector per patch."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_conv = nn.Conv2d(
            config.num_channels, config.hidden_size, config.patch_size, stride=config.patch_size, bias=False
        )
        self.ln_pre = RMSNorm(config.hidden_size, config.norm_eps)
        self.transformer = VisionTransformer(config)

    def forward(self, images: Sequence[Tensor]) -> tuple[Tensor, list[Grid]]:
        grids = [self._grid(image_CHW) for image_CHW in images]
        weight = self.patch_conv.weight
        if torch.is_grad_enabled() and len({image.shape for image in images}) == 1:
            together = torch.stack([image_CHW.to(weight.device, weight.dtype) for image_CHW in images])
            patches_ID = self.patch_conv(together).flatten(2).transpose(1, 2).flatten(0, 1)
        else:  # an image at a time: the sizes differ, and padding to the largest would cost more than it saves
            patches_ID = torch.cat(
                [self.patch_conv(image.to(weight.device, weight.dtype)[None])[0].flatten(1).T for image in images]
            )
        cos_IH, sin_IH = rope_2d(grids, self.config, patches_ID)
        return self.transformer(self.ln_pre(patches_ID), cos_IH, sin_IH, grids), grids

    def _grid(self, image_CHW: Tensor) -> Grid:
        config, unit = self.config, self.config.patch_size * self.config.spatial_merge_size
        if image_CHW.ndim != 3 or image_CHW.shape[0] != config.num_channels:
            raise ImageError(
                f"an image tensor has shape {tuple(image_CHW.shape)}; it must be [{config.num_channels}, height, width]"
            )
        _, height, width = image_CHW.shape
        if min(height, width) < unit or height % unit or width % unit:
            raise ImageError(
                f"an image is {width} x {height} pixels; both sides must be positive multiples of {unit}, "
                "which the tokenizer's image preprocessing takes care of"
            )
        return height // config.patch_size, width // config.patch_size


class VisionTransformer(nn.Module):
    """The stack of blocks; a module of its own because the official names say `transformer.layers`."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(VisionBlock(config) for _ in range(config.num_hidden_layers))

    def forward(self, x_ID: Tensor, cos_IH: Tensor, sin_IH: Tensor, grids: Sequence[Grid]) -> Tensor:
        for layer in self.layers:
            x_ID = layer(x_ID, cos_IH, sin_IH, grids)
        return x_ID


class VisionBlock(nn.Module):
    """Attention inside each image, then a SwiGLU, both with the norm before and the sum after."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.attention = VisionAttention(config)
        self.ffn_norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.feed_forward = SwiGLU(config.hidden_size, config.intermediate_size)

    def forward(self, x_ID: Tensor, cos_IH: Tensor, sin_IH: Tensor, grids: Sequence[Grid]) -> Tensor:
        x_ID = x_ID + self.attention(self.attention_norm(x_ID), cos_IH, sin_IH, grids)
        out_ID: Tensor = x_ID + self.feed_forward(self.ffn_norm(x_ID))
        return out_ID


class VisionAttention(nn.Module):
    """Bidirectional attention over the patches of one image at a time."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.num_heads, self.head_dim = config.num_attention_heads, config.head_dim
        self.wq = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.wk = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.wv = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.wo = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def forward(self, x_ID: Tensor, cos_IH: Tensor, sin_IH: Tensor, grids: Sequence[Grid]) -> Tensor:
        query_NIH = rotate_interleaved(self._heads(self.wq(x_ID)), cos_IH, sin_IH)
        key_NIH = rotate_interleaved(self._heads(self.wk(x_ID)), cos_IH, sin_IH)
        value_NIH = self._heads(self.wv(x_ID))
        out_NIH = attend_images(query_NIH, key_NIH, value_NIH, [rows * columns for rows, columns in grids])
        out_ID: Tensor = self.wo(out_NIH.transpose(0, 1).reshape(x_ID.shape))
        return out_ID

    def _heads(self, x_ID: Tensor) -> Tensor:
        return x_ID.view(-1, self.num_heads, self.head_dim).transpose(0, 1)


class PatchMerger(nn.Module):
    """Squares of spatial_merge_size x spatial_merge_size patches to one row each."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.merge = config.spatial_merge_size
        self.merging_layer = nn.Linear(config.hidden_size * self.merge**2, config.hidden_size, bias=False)

    def forward(self, patches_ID: Tensor, grids: Sequence[Grid]) -> Tensor:
        m, squares = self.merge, []
        ends = list(itertools.accumulate(rows * columns for rows, columns in grids[:-1]))
        for image_ID, (rows, columns) in zip(patches_ID.tensor_split(ends), grids, strict=True):
            tiled = image_ID.view(rows // m, m, columns // m, m, -1)
            # A square's features are ordered width first: index = channel * m * m + y * m + x.
            squares.append(tiled.permute(0, 2, 4, 1, 3).reshape(rows * columns // m**2, -1))
        merged_JD: Tensor = self.merging_layer(torch.cat(squares))
        return merged_JD


class Adapter(nn.Module):
    """Merged rows to the width of the text model."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        vision = config.vision
        if vision is None:
            raise ValueError("a model without vision has no adapter")
        self.w_in = nn.Linear(vision.hidden_size, config.dim, bias=vision.adapter_bias)
        self.w_out = nn.Linear(config.dim, config.dim, bias=vision.adapter_bias)

    def forward(self, merged_JD: Tensor) -> Tensor:
        rows: Tensor = self.w_out(functional.gelu(self.w_in(merged_JD)))
        return rows


def rope_2d(grids: Sequence[Grid], config: VisionConfig, like: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines [I, head_dim / 2] of every patch's angles, in the type and on the device of `like`."""
    lanes = torch.arange(0, config.head_dim, 2, dtype=torch.float32, device=like.device)
    frequencies = 1.0 / (config.rope_theta ** (lanes / config.head_dim))
    angles = []
    for rows, columns in grids:
        by_row = torch.outer(torch.arange(rows, dtype=torch.float32, device=like.device), frequencies[0::2])
        by_column = torch.outer(torch.arange(columns, dtype=torch.float32, device=like.device), frequencies[1::2])
        angles.append(torch.cat([by_row.repeat_interleave(columns, 0), by_column.repeat(rows, 1)], dim=-1))
    angles_IH = torch.cat(angles)
    return angles_IH.cos().to(like.dtype), angles_IH.sin().to(like.dtype)


def attend_images(query_NIH: Tensor, key_NIH: Tensor, value_NIH: Tensor, lengths: Sequence[int]) -> Tensor:
    """Attention inside each image: all images in one masked product where that is small, else one after another.

    Where training has images of one size, they are a batch of the fused kernel.
    """
    num_heads, num_patches, _ = query_NIH.shape
    if len(lengths) == 1:
        return attend(query_NIH, key_NIH, value_NIH)
    if torch.is_grad_enabled() and len(set(lengths)) == 1:
        images = (x_NIH.unflatten(1, (len(lengths), -1)).transpose(0, 1) for x_NIH in (query_NIH, key_NIH, value_NIH))
        return functional.scaled_dot_product_attention(*images).transpose(0, 1).flatten(1, 2)
    if num_heads * num_patches**2 * 4 <= MAX_SCORE_BYTES:
        image_I = torch.repeat_interleave(torch.tensor(lengths, device=query_NIH.device))
        return attend(query_NIH, key_NIH, value_NIH, image_I[:, None] != image_I[None, :])
    ends = list(itertools.accumulate(lengths[:-1]))
    parts = zip(*(x_NIH.tensor_split(ends, dim=1) for x_NIH in (query_NIH, key_NIH, value_NIH)), strict=True)
    return torch.cat([attend(*part) for part in parts], dim=1)


def attend(query_NIH: Tensor, key_NIH: Tensor, value_NIH: Tensor, hidden_II: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(H)) v, the softmax in float32, for a bounded number of queries at a time."""
    num_heads, num_patches, head_dim = query_NIH.shape
    chunk = max(1, MAX_SCORE_BYTES // (num_heads * num_patches * 4))
    out = []
    for start in range(0, num_patches, chunk):
        scores_NII = query_NIH[:, start : start + chunk] @ key_NIH.transpose(1, 2) * head_dim**-0.5
        if hidden_II is not None:
            scores_NII = scores_NII.masked_fill(hidden_II[start : start + chunk], torch.finfo(scores_NII.dtype).min)
        out.append(scores_NII.softmax(dim=-1, dtype=torch.float32).to(query_NIH.dtype) @ value_NIH)
    return torch.cat(out, dim=1)
