"""What every parameter is called: in the model, in Hugging Face files, in GGUF files.

The model's own names are the official ones of `consolidated.safetensors`, except that it holds the routed experts
fused: `experts.w13` and `experts.w2` where the official file has three matrices per expert (`expert_names`). Hugging
Face names carry a prefix that depends on the writer; `HF_PREFIXES` lists the three in use. `{i}` stands for the layer.
"""

from dataclasses import dataclass
from typing import Literal

Component = Literal[
    "embedding", "attention", "norms", "gate", "routed experts", "shared experts", "dense", "output", "vision",
    "projector", "draft",
]  # fmt: skip

HfStyle = Literal["bare", "release", "current"]  # Mistral4ForCausalLM; the release's files; transformers 5 in memory

# Start of a name in the table -> start of the name in a file of that style. Longest first.
HF_PREFIXES: dict[HfStyle, tuple[tuple[str, str], ...]] = {
    "bare": (("model.", "model."), ("lm_head.", "lm_head.")),
    "release": (
        ("multi_modal_projector.", "multi_modal_projector."),
        ("vision_tower.", "vision_tower."),
        ("lm_head.", "language_model.lm_head."),
        ("model.", "language_model.model."),
    ),
    "current": (
        ("multi_modal_projector.", "model.multi_modal_projector."),
        ("vision_tower.", "model.vision_tower."),
        ("lm_head.", "lm_head."),
        ("model.", "model.language_model."),
    ),
}


@dataclass(frozen=True, slots=True)
class Row:
    """One kind of parameter."""

    official: str
    hf: str | None  # without the style's prefix; None: the format has no such tensor
    gguf: tuple[str, ...]  # more than one: the matrix is stored in parts, in this order
    component: Component
    fp8: bool = False  # the release's FP8 files quantise it
    nvfp4: bool = False  # the release's NVFP4 files quantise it
    rope_rows: bool = False  # rows are interleaved pairs here, halves in Hugging Face files (vision queries and keys)
    projector_file: bool = False  # in GGUF: part of the mmproj file, not of the text file


def _attention(name: str, hf: str, *gguf: str, fp8: bool = True) -> Row:
    gguf_names = tuple(f"blk.{{i}}.{part}.weight" for part in gguf)
    return Row(
        f"layers.{{i}}.attention.{name}.weight", f"model.layers.{{i}}.self_attn.{hf}.weight", gguf_names,
        "attention" if fp8 else "norms", fp8=fp8,
    )  # fmt: skip


def _swiglu(module: str, hf_module: str, suffix: str, component: Component, nvfp4: bool) -> tuple[Row, ...]:
    return tuple(
        Row(
            f"layers.{{i}}.{module}.{name}.weight", f"model.layers.{{i}}.{hf_module}.{kind}_proj.weight",
            (f"blk.{{i}}.ffn_{kind}{suffix}.weight",), component, fp8=True, nvfp4=nvfp4,
        )
        for name, kind in (("w1", "gate"), ("w2", "down"), ("w3", "up"))
    )  # fmt: skip


def _vision(name: str, hf: str, gguf: str, rope_rows: bool = False) -> Row:
    layer = "transformer.layers.{i}"
    return Row(
        f"vision_encoder.{layer}.{name}.weight", f"vision_tower.{layer}.{hf}.weight", (f"v.blk.{{i}}.{gguf}.weight",),
        "vision", rope_rows=rope_rows, projector_file=True,
    )  # fmt: skip


def _image(official: str, hf: str, gguf: str, component: Component) -> Row:
    return Row(official, hf, (gguf,), component, projector_file=True)


def _adapter(name: str, hf: str, gguf: str) -> tuple[Row, ...]:
    return tuple(
        _image(
            f"vision_language_adapter.{name}.{kind}", f"multi_modal_projector.{hf}.{kind}", f"{gguf}.{kind}",
            "projector",
        )
        for kind in ("weight", "bias")
    )  # fmt: skip


TABLE: tuple[Row, ...] = (
    Row("tok_embeddings.weight", "model.embed_tokens.weight", ("token_embd.weight",), "embedding"),
    Row("layers.{i}.attention_norm.weight", "model.layers.{i}.input_layernorm.weight",
        ("blk.{i}.attn_norm.weight",), "norms"),
    _attention("wq_a", "q_a_proj", "attn_q_a"),
    _attention("q_a_norm", "q_a_layernorm", "attn_q_a_norm", fp8=False),
    _attention("wq_b", "q_b_proj", "attn_q_b"),
    _attention("wkv_a_with_mqa", "kv_a_proj_with_mqa", "attn_kv_a_mqa"),
    _attention("kv_a_norm", "kv_a_layernorm", "attn_kv_a_norm", fp8=False),
    _attention("wkv_b", "kv_b_proj", "attn_k_b", "attn_v_b"),
    _attention("wo", "o_proj", "attn_output"),
    Row("layers.{i}.ffn_norm.weight", "model.layers.{i}.post_attention_layernorm.weight",
        ("blk.{i}.ffn_norm.weight",), "norms"),
    Row("layers.{i}.gate.weight", "model.layers.{i}.mlp.gate.weight", ("blk.{i}.ffn_gate_inp.weight",), "gate"),
    Row("layers.{i}.experts.w13", "model.layers.{i}.mlp.experts.gate_up_proj",
        ("blk.{i}.ffn_gate_up_exps.weight",), "routed experts", fp8=True, nvfp4=True),
    Row("layers.{i}.experts.w2", "model.layers.{i}.mlp.experts.down_proj",
        ("blk.{i}.ffn_down_exps.weight",), "routed experts", fp8=True, nvfp4=True),
    *_swiglu("shared_experts", "mlp.shared_experts", "_shexp", "shared experts", nvfp4=True),
    *_swiglu("feed_forward", "mlp", "", "dense", nvfp4=False),
    Row("norm.weight", "model.norm.weight", ("output_norm.weight",), "norms"),
    Row("output.weight", "lm_head.weight", ("output.weight",), "output"),
    _image("vision_encoder.patch_conv.weight", "vision_tower.patch_conv.weight", "v.patch_embd.weight", "vision"),
    _image("vision_encoder.ln_pre.weight", "vision_tower.ln_pre.weight", "v.pre_ln.weight", "vision"),
    _vision("attention_norm", "attention_norm", "ln1"),
    _vision("attention.wq", "attention.q_proj", "attn_q", rope_rows=True),
    _vision("attention.wk", "attention.k_proj", "attn_k", rope_rows=True),
    _vision("attention.wv", "attention.v_proj", "attn_v"),
    _vision("attention.wo", "attention.o_proj", "attn_out"),
    _vision("ffn_norm", "ffn_norm", "ln2"),
    _vision("feed_forward.w1", "feed_forward.gate_proj", "ffn_gate"),
    _vision("feed_forward.w2", "feed_forward.down_proj", "ffn_down"),
    _vision("feed_forward.w3", "feed_forward.up_proj", "ffn_up"),
    _image("pre_mm_projector_norm.weight", "multi_modal_projector.norm.weight", "mm.input_norm.weight", "projector"),
    _image("patch_merger.merging_layer.weight", "multi_modal_projector.patch_merger.merging_layer.weight",
           "mm.patch_merger.weight", "projector"),
    *_adapter("w_in", "linear_1", "mm.1"),
    *_adapter("w_out", "linear_2", "mm.2"),
    Row("eagle_linear.weight", None, (), "draft", fp8=True),
)  # fmt: skip

_BY_OFFICIAL = {row.official: row for row in TABLE}
_BY_HF = {row.hf: row for row in TABLE if row.hf is not None}
_BY_GGUF = {name: row for row in TABLE for name in row.gguf}


def row_of(official: str) -> Row | None:
    """The table's row for a parameter of the model; None if there is no such parameter."""
    return _find(_BY_OFFICIAL, official)[0]


def hf_name(official: str, style: HfStyle) -> str | None:
    """Name of a parameter in a Hugging Face file; None where the format or style has no such tensor."""
    row, layer = _find(_BY_OFFICIAL, official)
    if row is None or row.hf is None:
        return None
    name = _fill(row.hf, layer)
    for start, prefix in HF_PREFIXES[style]:
        if name.startswith(start):
            return prefix + name.removeprefix(start)
    return None


def official_from_hf(name: str) -> str | None:
    """The model's name for a tensor of a Hugging Face file of any style; None for a stranger."""
    row, layer = _find(_BY_HF, plain_hf_name(name))
    return None if row is None else _fill(row.official, layer)


def plain_hf_name(name: str) -> str:
    """A Hugging Face name without what its style puts before it, as the table has it."""
    for style in ("release", "current"):
        for start, prefix in HF_PREFIXES[style]:
            if prefix != start and name.startswith(prefix):
                return start + name.removeprefix(prefix)
    return name


def gguf_names(official: str) -> tuple[str, ...]:
    """Names of a parameter's parts in GGUF, in order; empty where the format has no such tensor."""
    row, layer = _find(_BY_OFFICIAL, official)
    return () if row is None else tuple(_fill(name, layer) for name in row.gguf)


def official_from_gguf(name: str) -> str | None:
    """The model's name for (the whole of) a GGUF tensor; None for a stranger."""
    row, layer = _find(_BY_GGUF, name)
    return None if row is None else _fill(row.official, layer)


def expert_names(official: str, num_experts: int) -> list[tuple[str, ...]]:
    """Official files hold experts apart: per expert, the matrices stacked in `experts.w13` or `experts.w2`."""
    module, _, fused = official.rpartition(".")
    parts = ("w1", "w3") if fused == "w13" else ("w2",)
    return [tuple(f"{module}.{expert}.{part}.weight" for part in parts) for expert in range(num_experts)]


def is_fused_experts(official: str) -> bool:
    """Whether the parameter holds all routed experts of a layer."""
    return official.endswith((".experts.w13", ".experts.w2"))


def _find(table: dict[str, Row], name: str) -> tuple[Row | None, int | None]:
    row = table.get(name)
    if row is not None:
        return row, None
    parts = name.split(".")
    for place, part in enumerate(parts):
        if part.isascii() and part.isdigit() and str(int(part[:9])) == part:
            return table.get(".".join([*parts[:place], "{i}", *parts[place + 1 :]])), int(part)
    return None, None


def _fill(template: str, layer: int | None) -> str:
    return template if layer is None else template.replace("{i}", str(layer))
