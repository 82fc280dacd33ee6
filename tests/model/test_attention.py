"""Latent attention: its two forms agree, packed sequences stay apart, and the cache continues what a pass began."""

import pytest
import torch
from torch import Tensor

from small4.kernels.attention import fused_causal_attention
from small4.kernels.reference import causal_attention
from small4.model.attention import Form, FullAttention
from small4.model.config import ModelConfig, MoeConfig
from small4.model.packed_attention import PackedAttention
from small4.model.transformer import Transformer
from tests import naive
from tests.model.hugging_face import draw_case, draw_prompt, fill
from tests.paged import PagedSequence

CONFIG = ModelConfig(
    dim=64,
    n_layers=2,
    n_heads=3,
    q_lora_rank=32,
    kv_lora_rank=24,
    qk_nope_head_dim=16,
    qk_rope_head_dim=8,
    v_head_dim=24,
    vocab_size=97,
    moe=MoeConfig(num_experts=6, num_experts_per_tok=2, expert_hidden_dim=32),
    vision=None,
)


def small_model(config: ModelConfig = CONFIG) -> Transformer:
    model = Transformer(config)
    fill(model, seed=5)
    return model.eval()


def some_tokens(num_tokens: int) -> Tensor:
    return torch.randint(14, CONFIG.vocab_size, (num_tokens,), generator=torch.Generator().manual_seed(num_tokens))


@torch.inference_mode()
@pytest.mark.parametrize("form", ["expanded", "absorbed"])
def test_packed_sequences_do_not_see_each_other(form: Form) -> None:
    model, lengths = small_model(), [5, 1, 17, 9]
    tokens_T = some_tokens(sum(lengths))
    positions_T = torch.cat([torch.arange(length) for length in lengths])
    packed_TW = model(tokens_T, positions_T, FullAttention(lengths, form))
    alone = [
        model(part_T, torch.arange(len(part_T)), FullAttention([len(part_T)], form))
        for part_T in torch.split(tokens_T, lengths)
    ]
    torch.testing.assert_close(packed_TW, torch.cat(alone), rtol=0, atol=1e-5)


def test_padded_attention_equals_attention_sequence_by_sequence() -> None:
    model, lengths = small_model(), [5, 1, 17, 9, 9, 30, 2, 12, 4]
    tokens_T = some_tokens(sum(lengths))
    positions_T = torch.cat([torch.arange(length) for length in lengths])
    results = []
    for attention in (FullAttention(lengths), PackedAttention(lengths), PackedAttention(lengths, few_calls=True)):
        model.zero_grad()
        logits_TW = model(tokens_T, positions_T, attention)
        logits_TW.log_softmax(-1)[:, 3].sum().backward()
        results.append([logits_TW.detach(), *(parameter.grad for parameter in model.parameters())])
    for result in results[1:]:
        torch.testing.assert_close(result[0], results[0][0], rtol=0, atol=1e-5)
        torch.testing.assert_close(result[1:], results[0][1:], rtol=1e-3, atol=1e-4)


def test_few_calls_pad_within_bounds() -> None:
    lengths = [3, 4000] + [40 + index % 60 for index in range(300)]
    few, many = PackedAttention(lengths, few_calls=True), PackedAttention(lengths)
    assert len(few.shapes) < len(many.shapes) / 5
    assert sum(sequences * longest for sequences, longest in few.shapes) <= 1.25 * sum(lengths)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 0.03)])
@pytest.mark.parametrize(("num_queries", "num_keys"), [(1, 1), (33, 33), (1, 40), (12, 70)])
def test_fused_attention_equals_its_definition(
    num_queries: int, num_keys: int, dtype: torch.dtype, tolerance: float
) -> None:
    generator = torch.Generator().manual_seed(0)
    query_TNH = torch.randn(num_queries, 3, 24, generator=generator).to(dtype)
    key_SNH = torch.randn(num_keys, 3, 24, generator=generator).to(dtype)
    value_SNV = torch.randn(num_keys, 3, 16, generator=generator).to(dtype)
    fused_TNV = fused_causal_attention(query_TNH, key_SNH, value_SNV, 0.2)
    plain_TNV = causal_attention(query_TNH, key_SNH, value_SNV, 0.2)
    torch.testing.assert_close(fused_TNV, plain_TNV, rtol=0, atol=tolerance)


@torch.inference_mode()
def test_long_passes_take_the_fused_kernel_and_stay_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokens_T = small_model(), some_tokens(40)
    plain_TW = model(tokens_T, torch.arange(40), FullAttention([40]))
    monkeypatch.setattr("small4.model.attention.MAX_SCORES_FLOAT32", 0)
    torch.testing.assert_close(model(tokens_T, torch.arange(40), FullAttention([40])), plain_TW, rtol=0, atol=1e-5)


@torch.inference_mode()
def test_absorbed_form_equals_expanded_form() -> None:
    model, tokens_T = small_model(), some_tokens(40)
    expanded_TW = model(tokens_T, torch.arange(40), FullAttention([40], "expanded"))
    absorbed_TW = model(tokens_T, torch.arange(40), FullAttention([40], "absorbed"))
    torch.testing.assert_close(absorbed_TW, expanded_TW, rtol=0, atol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("form", ["expanded", "absorbed", None])
@pytest.mark.parametrize("pieces", [[40], [1] * 40, [7, 1, 20, 12], [17, 23]])
def test_a_cache_filled_in_pieces_gives_the_logits_of_one_pass(form: Form | None, pieces: list[int]) -> None:
    model, tokens_T = small_model(), some_tokens(40)
    whole_TW = model(tokens_T, torch.arange(40), FullAttention([40]))
    paged, rows, start = PagedSequence(CONFIG, 40, torch.float32), [], 0
    for size in pieces:
        positions_T = torch.arange(start, start + size)
        rows.append(model(tokens_T[start : start + size], positions_T, paged.next(size, form)))
        start += size
    torch.testing.assert_close(torch.cat(rows), whole_TW, rtol=0, atol=1e-5)


def test_gradients_agree_between_the_forms() -> None:
    model, tokens_T, gradients = small_model(), some_tokens(20), []
    forms: tuple[Form, ...] = ("expanded", "absorbed")
    for form in forms:
        model.zero_grad()
        logits_TW = model(tokens_T, torch.arange(20), FullAttention([20], form))
        logits_TW.log_softmax(-1)[:, 3].sum().backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-3, atol=1e-4)


@torch.inference_mode()
@pytest.mark.parametrize("seed", [1, 3, 6])
def test_cached_greedy_tokens_equal_the_naive_generator(seed: int) -> None:
    case = draw_case(seed)
    model = small_model(case.config)
    tokens_T, images = draw_prompt(case, 20)
    expected = naive.generate(model, tokens_T.tolist(), max_tokens=8, images=images)
    paged, fed_T, generated = PagedSequence(case.config, len(tokens_T) + 8, torch.float32), tokens_T, list[int]()
    for _ in range(8):
        positions_T = torch.arange(paged.length, paged.length + len(fed_T))
        pixels = images if paged.length == 0 else ()
        logits_TW = model(fed_T, positions_T, paged.next(len(fed_T)), pixels)
        generated.append(int(logits_TW[-1].argmax()))
        fed_T = torch.tensor(generated[-1:])
    assert generated == expected
