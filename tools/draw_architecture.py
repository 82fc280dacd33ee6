"""Draws docs/images/architecture.svg: the way from a token to a logit, with the sizes of Mistral Small 4.

    python -m tools.draw_architecture

Sizes come from `ModelConfig()`, colours of matrices from the table of parameter names; places are set by hand. The same
code draws the same bytes, and a test compares the committed file with them.
"""

from collections.abc import Sequence
from html import escape
from pathlib import Path

from small4.checkpoint.names import row_of
from small4.model.config import ModelConfig, MoeConfig, VisionConfig

TARGET = Path(__file__).resolve().parent.parent / "docs" / "images" / "architecture.svg"
WIDTH, HEIGHT = 900, 1088
NAME_SIZE, TEXT_SIZE = 13, 12
LETTER_WIDTH = 0.61  # of the font size, generous: a box whose text may not fit is an error

Point = tuple[float, float]

LIGHT = {
    "page": "#ffffff", "panel": "#f3f4f6", "inner": "#e7eaee", "edge": "#6b7280", "ink": "#16191d", "soft": "#454c55",
    "fp8": "#c9ddf7", "bf16": "#ffffff", "cache": "#ffe08a", "plain": "#d9eed6",
}  # fmt: skip
DARK = {
    "page": "#14171b", "panel": "#1d2126", "inner": "#272c33", "edge": "#8d96a1", "ink": "#f1f3f5", "soft": "#c3c9d0",
    "fp8": "#1f4474", "bf16": "#14171b", "cache": "#6d5200", "plain": "#22492a",
}  # fmt: skip


def style() -> str:
    """CSS of both colour schemes: the light one is the rule, the dark one the exception."""
    fixed = (
        f"text{{font-family:'DejaVu Sans',Verdana,Arial,sans-serif;font-size:{TEXT_SIZE}px}}"
        f".name{{font-family:'DejaVu Sans Mono',Menlo,Consolas,monospace;font-size:{NAME_SIZE}px;font-weight:bold}}"
        ".head{font-size:14px;font-weight:bold}.title{font-size:21px;font-weight:bold}.middle{text-anchor:middle}"
        ".line,.stream,.back{fill:none}.line,.back{stroke-width:1.5}.stream{stroke-width:4}.back{stroke-dasharray:5 4}"
    )
    return f"{fixed}{_colours(LIGHT)}@media(prefers-color-scheme:dark){{{_colours(DARK)}}}"


def _colours(scheme: dict[str, str]) -> str:
    fills = "".join(f".{name}{{fill:{scheme[name]}}}" for name in ("page", "panel", "inner"))
    boxes = "".join(
        f".{name}{{fill:{scheme[name]};stroke:{scheme['edge']}}}" for name in ("fp8", "bf16", "cache", "plain")
    )
    strokes = f".line,.stream,.back{{stroke:{scheme['ink']}}}.tip{{fill:{scheme['ink']}}}"
    return f"{fills}{boxes}{strokes}text{{fill:{scheme['ink']}}}.soft{{fill:{scheme['soft']}}}"


class Canvas:
    """Shapes and text, in the order they are drawn."""

    def __init__(self) -> None:
        self.parts: list[str] = []

    def rectangle(self, kind: str, x: float, y: float, width: float, height: float, radius: int = 5) -> None:
        self.parts.append(f'<rect class="{kind}" x="{x}" y="{y}" width="{width}" height="{height}" rx="{radius}"/>')

    def text(self, kind: str, x: float, y: float, words: str) -> None:
        self.parts.append(f'<text class="{kind}" x="{x}" y="{y}">{escape(words)}</text>')

    def box(self, kind: str, x: float, y: float, width: float, name: str, *details: str) -> None:
        """A box with a centred name in code letters and lines of words below it; its height follows from them."""
        height = box_height(len(details))
        for words, size in ((name, NAME_SIZE), *((detail, TEXT_SIZE) for detail in details)):
            if len(words) * size * LETTER_WIDTH > width - 6:
                raise ValueError(f"{words!r} may not fit into a box {width} wide; widen it or say less")
        self.rectangle(kind, x, y, width, height)
        self.text("name middle", x + width / 2, y + 18, name)
        for number, detail in enumerate(details, 1):
            self.text("middle", x + width / 2, y + 18 + 15 * number, detail)

    def arrow(self, *points: Point, kind: str = "line") -> None:
        """A line through the points with a head at the last."""
        path = " ".join(f"{x},{y}" for x, y in points)
        self.parts.append(f'<polyline class="{kind}" points="{path}" marker-end="url(#tip)"/>')

    def line(self, *points: Point, kind: str = "line") -> None:
        path = " ".join(f"{x},{y}" for x, y in points)
        self.parts.append(f'<polyline class="{kind}" points="{path}"/>')

    def plus(self, x: float, y: float) -> None:
        self.parts.append(f'<circle class="plain" cx="{x}" cy="{y}" r="11"/>')
        self.line((x - 6, y), (x + 6, y))
        self.line((x, y - 6), (x, y + 6))

    def svg(self) -> str:
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
                f'height="{HEIGHT}" role="img" aria-labelledby="title">',
                '<title id="title">From a token to a logit in Mistral Small 4</title>',
                f"<style>{style()}</style>",
                '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" '
                'markerUnits="userSpaceOnUse" orient="auto"><path class="tip" d="M0,0L8,4L0,8z"/></marker></defs>',
                *self.parts,
                "</svg>\n",
            ]
        )


def box_height(num_details: int) -> int:
    return 27 + 15 * num_details


def stored(parameter: str) -> str:
    """Which colour a parameter's box has: how the release stores it."""
    row = row_of(parameter)
    if row is None:
        raise ValueError(f"no parameter is called {parameter}")
    return "fp8" if row.fp8 else "bf16"


STREAM = 66  # x of the residual stream
LEFT, RIGHT = 108, 588  # edges of the boxes inside a block
QUERY, KEY = 223, 473  # centres of the query's and the key's lane


def draw() -> str:
    """The whole picture as SVG text."""
    config = ModelConfig()
    if config.moe is None or config.vision is None:
        raise ValueError("the picture is of a model with experts and images")
    canvas = Canvas()
    canvas.rectangle("page", 0, 0, WIDTH, HEIGHT, 0)
    canvas.text("title", 40, 36, "From a token to a logit")
    canvas.text("soft", 40, 58, "Mistral Small 4, one pass. In brackets: [rows, width].")
    canvas.rectangle("panel", 40, 222, 570, 664, 10)
    canvas.rectangle("inner", 96, 254, 504, 414, 8)
    canvas.rectangle("inner", 96, 680, 504, 194, 8)
    draw_ends(canvas, config)
    draw_queries(canvas, config)
    draw_keys(canvas, config)
    draw_attention(canvas, config)
    draw_experts(canvas, config, config.moe)
    draw_images(canvas, config, config.vision)
    draw_legend(canvas, config)
    return canvas.svg()


def draw_ends(canvas: Canvas, config: ModelConfig) -> None:
    """Embedding above the blocks, the residual stream through them, output and sampler below."""
    width = f"{config.dim:,}"
    canvas.box("plain", 40, 84, 190, "token ids [T]")
    canvas.arrow((135, 111), (135, 142))
    canvas.box(
        stored("tok_embeddings.weight"), 40, 144, 400, "tok_embeddings",
        f"{config.vocab_size:,} rows of {width}; image rows replace [IMG]",
    )  # fmt: skip
    canvas.text("", 80, 208, f"residual stream x [T, {width}]")
    canvas.text("head", 96, 243, f"Block, {config.n_layers} times")
    canvas.text("soft", 232, 243, "small4/model/transformer.py: Block")
    canvas.line((STREAM, 186), (STREAM, 904), kind="stream")
    canvas.arrow((STREAM, 902), (STREAM, 910))
    canvas.box(stored("norm.weight"), 40, 911, 400, "norm")
    canvas.arrow((240, 938), (240, 961))
    canvas.text("", 250, 955, f"[T, {width}]")
    canvas.box(stored("output.weight"), 40, 962, 400, "output", f"{width} → {config.vocab_size:,}")
    canvas.arrow((240, 1004), (240, 1029))
    canvas.text("", 250, 1021, f"logits [T, {config.vocab_size:,}]")
    canvas.box("plain", 40, 1030, 400, "Sampler", "small4/engine/sampler.py: last row to one id")
    canvas.arrow((40, 1051), (20, 1051), (20, 97), (39, 97), kind="back")
    canvas.text("soft", 240, 102, "next pass: the new id alone")


def draw_queries(canvas: Canvas, config: ModelConfig) -> None:
    """Left lane of the attention: from the normed stream to one query per head."""
    heads, head = config.n_heads, config.head_dim
    layer = "layers.0.attention"
    canvas.text("head", 108, 273, "Latent attention")
    canvas.text("soft", 244, 273, "small4/model/attention.py: LatentAttention")
    canvas.box(stored("layers.0.attention_norm.weight"), LEFT, 282, RIGHT - LEFT, "attention_norm")
    canvas.arrow((STREAM, 295), (LEFT - 1, 295))
    canvas.arrow((QUERY, 309), (QUERY, 327))
    canvas.box(stored(f"{layer}.wq_a.weight"), LEFT, 328, 230, "wq_a", f"{config.dim:,} → {config.q_lora_rank:,}")
    canvas.arrow((QUERY, 370), (QUERY, 387))
    canvas.box(stored(f"{layer}.q_a_norm.weight"), LEFT, 388, 230, "q_a_norm")
    canvas.arrow((QUERY, 415), (QUERY, 432))
    canvas.box(
        stored(f"{layer}.wq_b.weight"), LEFT, 433, 230, "wq_b",
        f"→ {heads} × ({config.qk_nope_head_dim} plain + {config.qk_rope_head_dim} rope)",
    )  # fmt: skip
    canvas.arrow((QUERY, 475), (QUERY, 492))
    canvas.box("plain", LEFT, 493, 230, "rotate, then grow", "rope part; all × l(position)")
    canvas.arrow((QUERY, 535), (QUERY, 560))
    canvas.text("", QUERY + 8, 552, f"q [T, {heads}, {head}]")


def draw_keys(canvas: Canvas, config: ModelConfig) -> None:
    """Right lane of the attention: the latent and the rope key, kept in the cache, then keys and values."""
    latent, rope = config.kv_lora_rank, config.qk_rope_head_dim
    layer = "layers.0.attention"
    canvas.arrow((KEY, 309), (KEY, 327))
    canvas.box(
        stored(f"{layer}.wkv_a_with_mqa.weight"), 358, 328, 230, "wkv_a_with_mqa",
        f"{config.dim:,} → {latent} latent | {rope} rope",
    )  # fmt: skip
    canvas.arrow((424, 370), (424, 387))
    canvas.text("", 431, 383, f"{latent}")
    canvas.arrow((549, 370), (549, 387))
    canvas.text("", 556, 383, f"{rope}")
    canvas.box(stored(f"{layer}.kv_a_norm.weight"), 358, 388, 140, "kv_a_norm")
    canvas.box("plain", 510, 388, 78, "rotate")
    canvas.arrow((424, 415), (424, 432))
    canvas.arrow((549, 415), (549, 432))
    canvas.box("cache", 358, 433, 230, f"cache row [{latent} | {rope}]", "kept per token and layer")
    canvas.arrow((447, 475), (447, 492))
    canvas.text("", 454, 488, f"[S, {latent}]")
    canvas.box(
        stored(f"{layer}.wkv_b.weight"), 358, 493, 192, "wkv_b",
        f"→ {config.n_heads} × ({config.qk_nope_head_dim} k + {config.v_head_dim} v)",
    )  # fmt: skip
    canvas.arrow((569, 475), (569, 560))
    canvas.text("", 575, 552, f"{rope}")
    canvas.arrow((447, 535), (447, 560))
    canvas.text("", 454, 552, "k, v of S tokens")


def draw_attention(canvas: Canvas, config: ModelConfig) -> None:
    """Where the lanes meet, and the way back to the stream."""
    canvas.box(
        "plain", LEFT, 561, RIGHT - LEFT, f"softmax(q · k / √{config.head_dim}) v",
        f"{config.n_heads} heads; a token sees itself and what came before it",
    )  # fmt: skip
    canvas.arrow((348, 603), (348, 619))
    canvas.box(
        stored("layers.0.attention.wo.weight"), LEFT, 620, RIGHT - LEFT, "wo",
        f"{config.n_heads} × {config.v_head_dim} → {config.dim:,}",
    )  # fmt: skip
    canvas.arrow((LEFT, 641), (STREAM + 12, 641))
    canvas.plus(STREAM, 641)


def draw_experts(canvas: Canvas, config: ModelConfig, moe: MoeConfig) -> None:
    """Gate, routed experts and the shared expert."""
    width, hidden = f"{config.dim:,}", f"{moe.expert_hidden_dim:,}"
    canvas.text("head", 108, 699, "Experts")
    canvas.text("soft", 180, 699, "small4/model/moe.py")
    canvas.box(stored("layers.0.ffn_norm.weight"), LEFT, 708, RIGHT - LEFT, "ffn_norm")
    canvas.arrow((STREAM, 721), (LEFT - 1, 721))
    for x in (165, 338, 518):
        canvas.arrow((x, 735), (x, 755))
    canvas.box(
        stored("layers.0.gate.weight"), LEFT, 756, 114, "gate", f"{width} → {moe.num_experts}",
        f"keeps best {moe.num_experts_per_tok}",
    )  # fmt: skip
    kind = stored("layers.0.experts.w13")
    for shift in (8, 4):
        canvas.rectangle(kind, 246 + shift, 756 + shift, 184, box_height(2))
    canvas.box(
        kind, 246, 756, 184, "experts", f"{moe.num_experts} SwiGLUs, {moe.num_experts_per_tok} per token",
        f"{width} → {hidden} → {width}",
    )  # fmt: skip
    canvas.arrow((222, 784), (245, 784))
    canvas.box(
        stored("layers.0.shared_experts.w1.weight"), 452, 756, 136, "shared_experts",
        f"{moe.num_shared_experts} SwiGLU", "for every token",
    )  # fmt: skip
    canvas.arrow((338, 822), (338, 838))
    canvas.arrow((520, 813), (520, 850), (350, 850))
    canvas.plus(338, 850)
    canvas.arrow((326, 850), (STREAM + 12, 850))
    canvas.text("", 108, 843, "Σ weight × expert, + shared")
    canvas.plus(STREAM, 850)


def draw_images(canvas: Canvas, config: ModelConfig, vision: VisionConfig) -> None:
    """The image path at the side, from the bottom up to the embedding."""
    width, patch, merge = f"{vision.hidden_size:,}", vision.patch_size, vision.spatial_merge_size
    merged = f"{vision.hidden_size * merge**2:,}"
    middle, left, wide = 758, 648, 220
    canvas.rectangle("panel", 634, 84, 248, 498, 10)
    canvas.text("head", left, 104, "Image path")
    canvas.text("soft", left, 124, "small4/model/vision.py")
    canvas.box(
        stored("vision_language_adapter.w_in.weight"), left, 144, wide, "vision_language_adapter",
        f"{width} → {config.dim:,} → {config.dim:,}",
    )  # fmt: skip
    canvas.arrow((left, 165), (441, 165))
    canvas.text("", 490, 157, f"[J, {config.dim:,}]")
    canvas.arrow((middle, 216), (middle, 187))
    canvas.text("", middle + 8, 206, f"[J, {width}]")
    canvas.box(
        stored("patch_merger.merging_layer.weight"), left, 217, wide, "patch_merger",
        f"{merge} × {merge} patches: {merged} → {width}",
    )  # fmt: skip
    canvas.arrow((middle, 288), (middle, 260))
    canvas.text("", middle + 8, 278, f"[I, {width}]")
    canvas.box(stored("pre_mm_projector_norm.weight"), left, 289, wide, "pre_mm_projector_norm")
    canvas.arrow((middle, 344), (middle, 317))
    canvas.text("", middle + 8, 335, f"[I, {width}]")
    canvas.box(
        stored("vision_encoder.transformer.layers.0.attention.wq.weight"), left, 345, wide, "transformer.layers",
        f"{vision.num_hidden_layers} blocks: {vision.num_attention_heads} heads,",
        f"inside an image; SwiGLU {vision.intermediate_size:,}",
    )  # fmt: skip
    canvas.arrow((middle, 422), (middle, 403))
    canvas.box(stored("vision_encoder.ln_pre.weight"), left, 423, wide, "ln_pre")
    canvas.arrow((middle, 469), (middle, 451))
    canvas.box(
        stored("vision_encoder.patch_conv.weight"), left, 470, wide, "patch_conv", f"{patch} × {patch} pixels → {width}"
    )
    canvas.arrow((middle, 540), (middle, 513))
    canvas.text("", middle + 8, 531, "pixels")
    canvas.box("plain", left, 541, wide, f"images [{vision.num_channels}, height, width]")


def draw_legend(canvas: Canvas, config: ModelConfig) -> None:
    """What colours and letters mean."""
    canvas.rectangle("panel", 634, 596, 248, 476, 10)
    canvas.text("head", 648, 620, "Colours")
    swatches = (
        ("fp8", "FP8 in the release"),
        ("bf16", "bfloat16 in the release"),
        ("cache", "kept between passes"),
        ("plain", "nothing learned here"),
    )
    for number, (kind, words) in enumerate(swatches):
        canvas.rectangle(kind, 648, 633 + 25 * number, 30, 17, 3)
        canvas.text("", 688, 646 + 25 * number, words)
    letters = (
        "T   tokens of this pass",
        "S   tokens so far, T included",
        "I    image patches",
        "J   image rows: I / 4",
    )
    write_lines(canvas, 762, "Letters", letters)
    row = f"({config.kv_lora_rank} + {config.qk_rope_head_dim})"
    num_values = config.n_layers * config.kv_width
    write_lines(canvas, 868, "Cache", (f"{config.n_layers} layers × {row}", f"= {num_values:,} values per token"))
    forms = (
        "Drawn: expanded, keys and", "values made from the rows.", "Absorbed: wkv_b is moved to",
        "queries and results; the rows", "are read as they are.",
    )  # fmt: skip
    write_lines(canvas, 938, "Two forms", forms)


def write_lines(canvas: Canvas, y: float, head: str, lines: Sequence[str]) -> None:
    canvas.text("head", 648, y, head)
    for number, words in enumerate(lines, 1):
        canvas.text("", 648, y + 3 + 18 * number, words)


if __name__ == "__main__":
    TARGET.write_text(draw(), encoding="utf-8")
