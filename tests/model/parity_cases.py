"""What is compared with the reference and how far apart they are: rows of the parity tests and of the benchmark."""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache

from small4.model.attention import Form, FullAttention
from tests.model.hugging_face import Case, Pair, draw_prompt, image_arguments
from tests.paged import PagedSequence

FORMS: tuple[Form, ...] = ("expanded", "absorbed")

# The gates, on logits of standard deviation about 1.
MAX_FLOAT32_PREFILL = 1e-5  # expanded form, whole prompt
# Every path that generation takes. Absorbing a whole prompt is none of them (above 16 queries we expand) and cannot be
# held to this: there the reference's two attention back ends are up to 4.5e-5 apart, and even an absorbed pass computed
# in float64 is 3.5e-5 away from it. Such a row may be as far as the back ends are from each other on the same model.
MAX_FLOAT32 = 2e-5
# In bf16 a gate's near tie may fall the other way and replace an expert; then the median row tells, not the mean.
MAX_BF16_MEAN, MIN_BF16_TOP1, MAX_BF16_MEDIAN_KL = 0.06, 0.85, 0.01


@dataclass(frozen=True)
class Difference:
    """Distance between two logit tables [T, W]."""

    max: float
    mean: float
    top1: float  # share of rows with the same best token
    median_kl: float  # median over rows of KL(reference || ours), nats


@dataclass(frozen=True)
class Row:
    """One comparison."""

    what: str  # "prefill" or "decode"
    start: int  # position of the first token
    form: Form
    difference: Difference
    reference_apart: float = 0.0  # largest distance between the reference's two attention back ends on a prompt


def compare(ours_TW: Tensor, theirs_TW: Tensor) -> Difference:
    """How far `ours_TW` lies from `theirs_TW`, in float64."""
    assert ours_TW.dtype == theirs_TW.dtype
    ours, theirs = ours_TW.double(), theirs_TW.double()
    distance = (ours - theirs).abs()
    kl = (theirs.softmax(-1) * (theirs.log_softmax(-1) - ours.log_softmax(-1))).sum(-1)
    same = (ours.argmax(-1) == theirs.argmax(-1)).double()
    return Difference(distance.max().item(), distance.mean().item(), same.mean().item(), kl.median().item())


def broken_gates(rows: Sequence[Row], dtype: torch.dtype) -> list[str]:
    """What is too far apart among the rows of one model; empty where parity holds."""
    if dtype == torch.float32:
        apart = max((row.reference_apart for row in rows), default=0.0)
        return [
            f"{row}: over {limit:.1e}" for row in rows if not row.difference.max <= (limit := float32_limit(row, apart))
        ]
    broken = []
    for what, form in sorted({(row.what, row.form) for row in rows}):
        pool = [row.difference for row in rows if (row.what, row.form) == (what, form)]
        mean = statistics.fmean(difference.mean for difference in pool)
        top1 = statistics.fmean(difference.top1 for difference in pool)
        median_kl = statistics.median(difference.median_kl for difference in pool)
        if not ((mean < MAX_BF16_MEAN and top1 > MIN_BF16_TOP1) or median_kl < MAX_BF16_MEDIAN_KL):
            broken.append(f"{what} {form}: mean {mean:.3f}, top-1 {top1:.3f}, median KL {median_kl:.4f}")
    return broken


def float32_limit(row: Row, reference_apart: float) -> float:
    """Largest difference allowed to one row in float32, where the reference's back ends are so far apart."""
    if row.what == "prefill":
        return MAX_FLOAT32_PREFILL if row.form == "expanded" else max(MAX_FLOAT32, reference_apart)
    return MAX_FLOAT32


@torch.inference_mode()
def compare_prefill(case: Case, pair: Pair, starts: Sequence[int], num_tokens: int = 48) -> Iterator[Row]:
    """All logits of one prompt, its first token at each of `starts`."""
    tokens_T, images = draw_prompt(case, num_tokens)
    for start in starts:
        positions_T = torch.arange(start, start + len(tokens_T))
        theirs = reference_logits(pair, tokens_T, positions_T, images)
        apart = compare(reference_logits(pair, tokens_T, positions_T, images, "sdpa"), theirs).max
        for form in FORMS:
            ours = pair.ours(tokens_T, positions_T, FullAttention([len(tokens_T)], form), images)
            yield Row("prefill", start, form, compare(ours, theirs), apart)


@torch.inference_mode()
def compare_decode(case: Case, pair: Pair, starts: Sequence[int], steps: int = 16) -> Iterator[Row]:
    """Logits of the last `steps` tokens, fed one at a time to both caches after the others in one pass.

    A negative start s puts token -s of the decoded ones on position 8192, where the queries take their first step up.
    """
    tokens_T, images = draw_prompt(case, 32 + steps)
    prompt = len(tokens_T) - steps
    for wanted in starts:
        start = wanted if wanted >= 0 else 8192 - prompt + wanted
        positions_T = torch.arange(start, start + len(tokens_T))
        theirs = decode_theirs(pair, tokens_T, positions_T, images, prompt)
        for form in FORMS:
            ours = decode_ours(pair, tokens_T, positions_T, images, prompt, form)
            yield Row("decode", start, form, compare(ours, theirs))


def reference_logits(
    pair: Pair, tokens_T: Tensor, positions_T: Tensor, images: Sequence[Tensor], attention: str = "eager"
) -> Tensor:
    """The reference's logits [T, W] of one pass, with either of its attention back ends."""
    dtype = pair.ours.tok_embeddings.weight.dtype
    pair.theirs.set_attn_implementation(attention)
    output = pair.theirs(
        input_ids=tokens_T[None], position_ids=positions_T[None], use_cache=False, **image_arguments(images, dtype)
    )
    pair.theirs.set_attn_implementation("eager")
    logits: Tensor = output.logits[0]
    return logits


def decode_theirs(pair: Pair, tokens_T: Tensor, positions_T: Tensor, images: Sequence[Tensor], prompt: int) -> Tensor:
    """The reference's logits from token `prompt` on, through its own cache."""
    cache, rows = DynamicCache(), []
    pixels = image_arguments(images, pair.ours.tok_embeddings.weight.dtype)
    for begin, end in [(0, prompt), *((at, at + 1) for at in range(prompt, len(tokens_T)))]:
        output = pair.theirs(
            input_ids=tokens_T[None, begin:end],
            position_ids=positions_T[None, begin:end],
            past_key_values=cache,
            use_cache=True,
            **(pixels if begin == 0 else {}),
        )
        rows.append(output.logits[0, -1])
    return torch.stack(rows[1:])


def decode_ours(
    pair: Pair, tokens_T: Tensor, positions_T: Tensor, images: Sequence[Tensor], prompt: int, form: Form
) -> Tensor:
    """Our logits from token `prompt` on, through the latent cache; absorbed means the prompt's own pass is expanded."""
    model = pair.ours
    paged, rows = PagedSequence(model.config, len(tokens_T), model.tok_embeddings.weight.dtype), []
    for begin, end in [(0, prompt), *((at, at + 1) for at in range(prompt, len(tokens_T)))]:
        attention = paged.next(end - begin, None if form == "absorbed" else form)
        logits_TW = model(tokens_T[begin:end], positions_T[begin:end], attention, images if begin == 0 else ())
        rows.append(logits_TW[-1])
    return torch.stack(rows[1:])
