"""A draft head learns from its target, which stays as it is, and ends as a checkpoint that loads beside it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

import small4
from small4.checkpoint.load import load_draft
from small4.cli.main import main
from small4.errors import ConfigError
from small4.model.attention import FullAttention
from small4.model.config import DraftConfig
from small4.model.draft_head import DraftHead
from small4.model.transformer import Transformer
from small4.tokenizer.tekken import Tokenizer
from small4.train.data import NANO_TEKKEN, training_batch
from small4.train.draft import DraftTrainConfig, Rows, draft_loss, head_shape, train_draft
from small4.train.optim import initialise
from small4.train.presets import preset
from tests.engine.tiny import tiny_model

SMALL = DraftTrainConfig(preset="test", steps=5, tokens_per_step=256)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(NANO_TEKKEN)


def test_a_row_guesses_the_state_that_draws_a_token_of_an_answer(tokenizer: Tokenizer) -> None:
    batch = training_batch(preset("test"), tokenizer, 0)
    rows = Rows(batch)
    assert rows.lengths == [length - 1 for length in batch.lengths]
    assert torch.equal(rows.places_R[rows.scored_M] + 1, batch.source_M)
    assert torch.equal(batch.tokens_T[rows.places_R[rows.scored_M] + 2], batch.target_M)
    assert not rows.has_before_R[0]
    assert int((~rows.has_before_R).sum()) == len(batch.lengths)


def test_the_loss_is_that_of_the_guesses_written_out(tokenizer: Tokenizer) -> None:
    target, batch = tiny_model(), training_batch(replace(preset("test"), tokens_per_step=64), tokenizer, 0)
    head = DraftHead(DraftConfig(text=head_shape(target.config, 1)))
    initialise(head, 1, seed=2)
    config = DraftTrainConfig(guessed_share=0.0)
    loss, cross_entropy = draft_loss(head, target, batch, config, torch.Generator())
    sums, start = torch.zeros(3), 0
    for length in batch.lengths:
        sums += slow_sums(target, head, batch.tokens_T[start : start + length], batch.source_M - start)
        start += length
    num, width = len(batch.source_M), target.config.dim
    torch.testing.assert_close(cross_entropy, sums[0] / num)
    torch.testing.assert_close(loss.detach(), sums[0] / num + sums[1] / (num * width))
    assert int(sums[2]) == num


@torch.inference_mode()
def slow_sums(target: Transformer, head: DraftHead, tokens_T: Tensor, sources: Tensor) -> Tensor:
    """Cross-entropies, smooth L1 distances and their number, over the sources of one conversation."""
    places_T = torch.arange(len(tokens_T))
    hidden_TD = target.hidden(tokens_T, places_T, FullAttention([len(tokens_T)]))
    embedding_TD = target.tok_embeddings(tokens_T)
    guess_TD = head(embedding_TD[1:], hidden_TD[:-1], places_T[:-1], FullAttention([len(tokens_T) - 1]))
    sums = torch.zeros(3)
    for source in (place for place in sources.tolist() if 0 <= place < len(tokens_T)):
        wanted_D, guess_D = hidden_TD[source], guess_TD[source - 1]
        scores = target.logits(torch.stack([wanted_D, guess_D])).log_softmax(-1)
        gap = (wanted_D - guess_D).abs()
        sums += torch.tensor(
            [-(scores[0].exp() * scores[1]).sum(), torch.where(gap < 1, gap**2 / 2, gap - 0.5).sum(), 1.0]
        )
    return sums


def test_a_head_learns_and_its_target_stays(tokenizer: Tokenizer) -> None:
    target, losses = tiny_model(), list[float]()
    before = {name: parameter.clone() for name, parameter in target.named_parameters()}
    train_draft(SMALL, target, tokenizer, on_loss=lambda step, loss: losses.append(loss))
    assert len(losses) == 5
    assert losses[-1] < losses[0]
    assert all(torch.equal(parameter, before[name]) for name, parameter in target.named_parameters())


@pytest.mark.slow
def test_the_command_leaves_a_head_that_loads_beside_its_nano(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    words = ["train", "draft", "--preset", "test", "--steps", "2", "--n", "1", "--suite", "talk", "--out", str(out)]
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert not stop.value.code
    assert "tokens per step" in capsys.readouterr().out
    record = json.loads((out / "checkpoint" / "training.json").read_text())
    assert (record["config"]["steps"], len(record["scores"])) == (2, 1)
    assert load_draft(out / "checkpoint").config.text.dim == 128
    assert small4.load("nano", draft=out / "checkpoint").chat("17+48", max_tokens=3).usage.completion_tokens >= 1
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    assert "holds a head already" in capsys.readouterr().err


def test_a_training_without_steps_is_refused() -> None:
    with pytest.raises(ConfigError, match="steps is 0"):
        DraftTrainConfig(steps=0)
