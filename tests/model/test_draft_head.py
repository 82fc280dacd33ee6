"""The draft head equals its definition, written out slowly."""

import math
from dataclasses import replace

import torch
from torch import Tensor

from small4.model.attention import FullAttention
from small4.model.config import DraftConfig, ModelConfig
from small4.model.draft_head import DraftHead
from tests.model.hugging_face import fill
from tests.paged import PagedSequence

TEXT = ModelConfig(
    dim=48,
    n_layers=2,
    n_heads=2,
    q_lora_rank=16,
    kv_lora_rank=16,
    qk_nope_head_dim=8,
    qk_rope_head_dim=8,
    v_head_dim=16,
    hidden_dim=80,
    vocab_size=64,
    moe=None,
    vision=None,
)


def small_head() -> DraftHead:
    head = DraftHead(DraftConfig(text=TEXT))
    fill(head, seed=2)
    return head.double().eval()


def norm(x: Tensor, weight: Tensor) -> Tensor:
    return x / (x.pow(2).mean() + TEXT.norm_eps).sqrt() * weight


def rope(x: Tensor, position: int, frequencies: Tensor) -> Tensor:
    turned = torch.empty_like(x)
    for lane, frequency in enumerate(frequencies.tolist()):
        cos, sin = math.cos(position * frequency), math.sin(position * frequency)
        turned[2 * lane] = x[2 * lane] * cos - x[2 * lane + 1] * sin
        turned[2 * lane + 1] = x[2 * lane + 1] * cos + x[2 * lane] * sin
    return turned


def slow_attention(state: dict[str, Tensor], layer: int, rows: list[Tensor], start: int, lanes: Tensor) -> list[Tensor]:
    """One layer's attention, a head and a pair of tokens at a time."""
    w = {name.split(".")[3]: tensor for name, tensor in state.items() if name.startswith(f"layers.{layer}.attention.")}
    nope, rank, out = TEXT.qk_nope_head_dim, TEXT.kv_lora_rank, []
    normed = [norm(row, state[f"layers.{layer}.attention_norm.weight"]) for row in rows]
    queries = [w["wq_b"] @ norm(w["wq_a"] @ row, w["q_a_norm"]) for row in normed]
    latents = [w["wkv_a_with_mqa"] @ row for row in normed]
    for p, query in enumerate(queries):
        growth = 1 + 0.1 * math.log(1 + (start + p) // 8192)
        values = []
        for head, query_H in enumerate(query.view(TEXT.n_heads, -1)):
            turned = torch.cat([query_H[:nope], rope(query_H[nope:], start + p, lanes)]) * growth
            scores, seen = [], []
            for s in range(p + 1):
                up = (w["wkv_b"] @ norm(latents[s][:rank], w["kv_a_norm"])).view(TEXT.n_heads, -1)[head]
                key = torch.cat([up[:nope], rope(latents[s][rank:], start + s, lanes)])
                scores.append(turned @ key / TEXT.head_dim**0.5)
                seen.append(up[nope:])
            values.append((torch.stack(scores).softmax(0)[:, None] * torch.stack(seen)).sum(0))
        out.append(rows[p] + w["wo"] @ torch.cat(values))
    return out


def slow_draft(head: DraftHead, embeddings: Tensor, hidden: Tensor, start: int) -> Tensor:
    """The definition of specification 4.4, row by row."""
    state = head.state_dict()
    rows = [state["eagle_linear.weight"] @ torch.cat([e, h]) for e, h in zip(embeddings, hidden, strict=True)]
    for layer in range(TEXT.n_layers):
        rows = slow_attention(state, layer, rows, start, head.frequencies_R)
        w1, w2, w3 = (state[f"layers.{layer}.feed_forward.w{n}.weight"] for n in (1, 2, 3))
        for p, row in enumerate(rows):
            h = norm(row, state[f"layers.{layer}.ffn_norm.weight"])
            gate = w1 @ h
            rows[p] = row + w2 @ (gate * torch.sigmoid(gate) * (w3 @ h))
    return torch.stack([norm(row, state["norm.weight"]) for row in rows])


@torch.inference_mode()
def test_draft_head_equals_its_definition_across_a_growth_step() -> None:
    head = small_head()
    embeddings, hidden = torch.randn(2, 7, TEXT.dim, generator=torch.Generator().manual_seed(1)).double()
    for start in (0, 8188):
        out = head(embeddings, hidden, torch.arange(start, start + 7), FullAttention([7]))
        torch.testing.assert_close(out, slow_draft(head, embeddings, hidden, start), rtol=0, atol=2e-5)


@torch.inference_mode()
def test_draft_head_continues_from_a_cache_of_its_own() -> None:
    head = small_head()
    embeddings, hidden = torch.randn(2, 9, TEXT.dim, generator=torch.Generator().manual_seed(1)).double()
    whole = head(embeddings, hidden, torch.arange(9), FullAttention([9]))
    paged, parts = PagedSequence(TEXT, 9, torch.float64), []
    for begin, end in [(0, 6), (6, 7), (7, 8), (8, 9)]:
        attention = paged.next(end - begin)
        parts.append(head(embeddings[begin:end], hidden[begin:end], torch.arange(begin, end), attention))
    torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=2e-6)


def test_released_draft_head_has_the_published_shapes() -> None:
    text = replace(ModelConfig(), n_layers=2, moe=None, vision=None)
    with torch.device("meta"):
        head = DraftHead(DraftConfig(text=text))
    shapes = {name: tuple(parameter.shape) for name, parameter in head.named_parameters()}
    assert shapes["eagle_linear.weight"] == (4096, 8192)
    assert shapes["layers.1.feed_forward.w1.weight"] == (12288, 4096)
    assert not any(name.startswith(("tok_embeddings", "output")) for name in shapes)
    matrices = sum(parameter.numel() for parameter in head.parameters() if parameter.ndim == 2)
    assert matrices == 2 * (28_049_408 + 150_994_944) + 33_554_432
