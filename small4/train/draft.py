"""A draft head for a trained nano: learns to guess the nano's next hidden state and next token from its own.

    h   the target's hidden states, x the embeddings of the tokens behind them; the target itself does not learn
    h'_{p+1} = head(x_{p+1}, h_p)                                       a whole conversation at once
    loss     = cross-entropy(target's scores at p + 1, scores of h'_{p+1}) + state_weight * |h'_{p+1} - h_{p+1}|

The second part (smooth L1) is what makes a guessed state good enough to guess from. Since a draft of several tokens
stands on guessed states, each batch is learned twice: on true states, and with half of them, by chance, replaced by the
guesses of the first time (EAGLE, arXiv 2401.15077, adds noise to the same end). Only rows count whose token is guessed
in service: those of answers.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import count
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from small4.chat import ChatRequest, Message
from small4.checkpoint.load import load_draft, load_model
from small4.checkpoint.save import save_model
from small4.checkpoint.tokenizer_file import load_tokenizer
from small4.engine.config import HEAD_DRAFTS, EngineConfig
from small4.engine.engine import Engine, GenerationRequest
from small4.errors import ConfigError
from small4.model.config import DraftConfig, ModelConfig
from small4.model.draft_head import DraftHead
from small4.model.packed_attention import PackedAttention
from small4.model.transformer import Transformer
from small4.tokenizer.tekken import Tokenizer
from small4.tokenizer.template import render
from small4.train.data import Batch, training_batch
from small4.train.evaluate import MAX_ANSWER_TOKENS
from small4.train.optim import initialise, make_optimizers, rate_share, set_rate
from small4.train.presets import OptimConfig, preset
from small4.train.suites import check_suites, held_out_problems

DRAFT_SUITES = ("sum2", "sum4", "chain3", "product2x2", "talk")


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftTrainConfig:
    """One training of a draft head."""

    preset: str = "first"  # whose conversations are learned from
    layers: int = 1  # the release has 2 over 36; a nano has 4
    steps: int = 3_000
    tokens_per_step: int = 1_250
    seed: int = 0
    state_weight: float = 1.0
    guessed_share: float = 0.5  # of the states that are replaced by guesses the second time
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(weight_decay=0.01))

    def __post_init__(self) -> None:
        if self.steps < 1 or self.layers < 1 or self.tokens_per_step < 64:
            raise ConfigError(
                f"steps is {self.steps}, layers {self.layers} and tokens_per_step {self.tokens_per_step}; "
                "they must be at least 1, 1 and 64"
            )


@dataclass(frozen=True, slots=True)
class DraftScore:
    """What a head is worth on the engine, one sequence at a time."""

    skill: str
    accepted_length: float  # tokens per step that verified drafts, the drawn one included
    share: float  # of drafts that were right, of all


def train_draft(
    config: DraftTrainConfig,
    target: Transformer,
    tokenizer: Tokenizer,
    *,
    on_loss: Callable[[int, float], None] = lambda step, loss: None,
) -> DraftHead:
    """A head for `target`, which stays as it is; `on_loss` hears of each step's cross-entropy."""
    head = DraftHead(DraftConfig(text=head_shape(target.config, config.layers)))
    initialise(head, config.layers, config.seed)
    optimizers = make_optimizers(head, config.optim)
    data = replace(preset(config.preset), seed=config.seed, tokens_per_step=config.tokens_per_step)
    chance = torch.Generator().manual_seed(config.seed)
    for step in range(config.steps):
        set_rate(optimizers, rate_share(config.optim, step, config.steps))
        loss, cross_entropy = draft_loss(head, target, training_batch(data, tokenizer, step), config, chance)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(head.parameters(), config.optim.clip_norm)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        on_loss(step + 1, float(cross_entropy))
    return head.eval().requires_grad_(False)


def head_shape(target: ModelConfig, layers: int) -> ModelConfig:
    """The target's attention with dense feed-forwards, as wide as all that the target runs for one token."""
    moe, wide = target.moe, target.hidden_dim
    if moe is not None:
        wide = (moe.num_experts_per_tok + moe.num_shared_experts) * moe.expert_hidden_dim
    return replace(target, n_layers=layers, moe=None, vision=None, hidden_dim=wide)


def draft_loss(
    head: DraftHead, target: Transformer, batch: Batch, config: DraftTrainConfig, chance: torch.Generator
) -> tuple[Tensor, Tensor]:
    """What is minimised, and the cross-entropy of guesses on true states."""
    with torch.no_grad():
        hidden_TD = target.hidden(batch.tokens_T, batch.positions_T, PackedAttention(batch.lengths))
    rows = Rows(batch)
    true_RD, embedding_RD = hidden_TD[rows.places_R], target.tok_embeddings(batch.tokens_T[rows.places_R + 1]).detach()
    wanted_MD = hidden_TD[batch.source_M]
    with torch.no_grad():
        probabilities_MW = target.logits(wanted_MD).softmax(-1)

    def learn(states_RD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        guess_RD = head(embedding_RD, states_RD, rows.positions_R, PackedAttention(rows.lengths))
        guess_MD = guess_RD[rows.scored_M]
        cross_entropy = F.cross_entropy(target.logits(guess_MD), probabilities_MW)
        distance = F.smooth_l1_loss(guess_MD, wanted_MD)
        return cross_entropy + config.state_weight * distance, cross_entropy.detach(), guess_RD.detach()

    loss, cross_entropy, guess_RD = learn(true_RD)
    is_guessed_R = rows.has_before_R & (torch.rand(len(true_RD), generator=chance) < config.guessed_share)
    again, _, _ = learn(torch.where(is_guessed_R[:, None], guess_RD.roll(1, 0), true_RD))
    return (loss + again) / 2, cross_entropy


class Rows:
    """Where the head's rows R lie in a batch: every token of a conversation but its last."""

    def __init__(self, batch: Batch) -> None:
        ends = torch.tensor(batch.lengths).cumsum(0)
        is_row_T = torch.ones(len(batch.tokens_T), dtype=torch.bool)
        is_row_T[ends - 1] = False
        self.lengths = [length - 1 for length in batch.lengths]
        self.places_R = is_row_T.nonzero().squeeze(1)
        self.positions_R = batch.positions_T[self.places_R]
        self.has_before_R = self.positions_R > 0
        row_of_T = is_row_T.cumsum(0) - 1
        self.scored_M = row_of_T[batch.source_M - 1]  # the row behind which the source's state is guessed


def score_draft(
    head: DraftHead, target: Transformer, tokenizer: Tokenizer, *, suites: Sequence[str] = DRAFT_SUITES, n: int = 50
) -> list[DraftScore]:
    """Accepted lengths on held-out problems with their thoughts, greedily, where nearly every step drafts."""
    end_id, scores = tokenizer.special_id("</s>"), []
    for suite in suites:
        engine = Engine(
            target,
            EngineConfig(max_running=n, max_waiting=n),
            context_length=target.config.max_position_embeddings,
            num_ids=tokenizer.vocab_size,
            draft_head=head,
            clock=count().__next__,  # every step takes as long, so drafts always pay
        )
        for problem in held_out_problems(suite, n):
            chat = ChatRequest(messages=(Message("user", problem.question),), effort="high")
            prompt = render(tokenizer, chat).token_ids
            engine.submit(GenerationRequest(prompt=prompt, max_tokens=MAX_ANSWER_TOKENS, stop_ids=frozenset({end_id})))
        engine.run_to_end()
        did = engine.speculation
        assert did is not None, "an engine with a head speculates"
        scores.append(DraftScore(suite, 1 + did.num_accepted / did.num_verified, did.num_accepted / did.num_drafted))
    return scores


def train_draft_for(
    target: Path | str,
    out: Path,
    config: DraftTrainConfig,
    *,
    suites: Sequence[str] = DRAFT_SUITES,
    n: int = 50,
    on_loss: Callable[[int, float], None] = lambda step, loss: None,
) -> tuple[Path, list[DraftScore]]:
    """Train a head for the nano at `target`; the directory of its checkpoint under `out`, and what it is worth."""
    check_suites(suites, n)
    directory = out / "checkpoint"
    if directory.exists():
        raise ConfigError(f"{directory} holds a head already; name another directory")
    model = load_model(target, dtype=torch.float32).eval().requires_grad_(False)
    tokenizer = load_tokenizer(Path(target), model.config)
    began = time.monotonic()
    losses: list[float] = []

    def note(step: int, loss: float) -> None:
        losses.append(loss)
        on_loss(step, loss)

    head = train_draft(config, model, tokenizer, on_loss=note)
    seconds = time.monotonic() - began
    save_model(head.to(torch.bfloat16), directory, format="native-bf16")
    scores = score_draft(load_draft(directory, dtype=torch.float32), model, tokenizer, suites=suites, n=n)
    record = {
        "config": asdict(config),
        "seconds": round(seconds),
        "losses": [round(sum(losses[i : i + 50]) / len(losses[i : i + 50]), 4) for i in range(0, len(losses), 50)],
        "max_drafts": HEAD_DRAFTS,
        "n": n,
        "scores": [asdict(score) for score in scores],
    }
    (directory / "training.json").write_text(json.dumps(record, indent=1) + "\n")
    return directory, scores
