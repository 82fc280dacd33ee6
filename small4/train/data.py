"""Synthetic conversations -> packed batches, a pure function of (config, step): resuming needs no data position.

A row is one conversation through the real chat template; rows lie one after another and attend to themselves alone, so
none is cut to fit. Only the assistant's tokens carry loss. What the rows hold is the config's mix: a `Mixture` of every
skill, or, for the first nano, weights of its few.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from torch import Tensor

from small4.chat import Effort, Message, TextPart, ThinkPart
from small4.tokenizer.tekken import Tokenizer
from small4.tokenizer.template import TrainingExample, render_training
from small4.tokenizer.truncate import nano_tekken
from small4.train.conversations import Conversations
from small4.train.mixture import Mixture
from small4.train.presets import TrainConfig
from small4.train.tasks.problem import Problem
from small4.train.tasks.skills import SKILLS
from small4.train.tasks.source import Source

NANO_TEKKEN = Path(__file__).parent.parent / "nano" / "tekken.json"
MAX_NONE_TURNS = 6

_SYSTEMS = ("You are a helpful assistant.", "You are nano.", "Answer with a number.", "Be brief.", "You do sums.")


@dataclass(frozen=True, slots=True)
class Batch:
    """Packed conversations of one step."""

    tokens_T: Tensor
    positions_T: Tensor  # from 0 in each conversation
    lengths: list[int]  # tokens of each conversation
    source_M: Tensor  # places whose next token carries loss
    target_M: Tensor  # those next tokens
    images: tuple[Tensor, ...] = ()  # normalised pixels [C, height, width], in reading order

    def to(self, device: torch.device) -> "Batch":
        """The same batch where the model is."""
        moved = [
            t.to(device, non_blocking=True) for t in (self.tokens_T, self.positions_T, self.source_M, self.target_M)
        ]
        tokens_T, positions_T, source_M, target_M = moved
        images = tuple(image.to(device, non_blocking=True) for image in self.images)
        return Batch(tokens_T, positions_T, self.lengths, source_M, target_M, images)


class Feed:
    """The batches of a run; building one measures how long its skills are."""

    def __init__(self, config: TrainConfig, tokenizer: Tokenizer) -> None:
        self.config = config
        self.tokenizer = tokenizer
        self.conversations = Conversations(config.mix, tokenizer) if isinstance(config.mix, Mixture) else None

    def batch(self, step: int) -> Batch:
        """The batch of one step; same config, same batch."""
        rng, row = Random(f"{self.config.seed} {step}"), self._row_maker(step)
        rows: list[TrainingExample] = []
        is_padded = isinstance(self.config.mix, Mixture) and self.config.mix.is_padded
        num_tokens, wanted = 0, self.config.tokens_per_step
        while num_tokens < wanted:
            rows.append(row(rng))
            num_tokens += len(rows[-1].token_ids)
        if is_padded and num_tokens > wanted:
            num_tokens -= len(rows.pop().token_ids)
        if is_padded and num_tokens < wanted:
            rows.append(self._padding(wanted - num_tokens))
        return pack(rows)

    def _row_maker(self, step: int) -> Callable[[Random], TrainingExample]:
        if self.conversations is None:
            return self._first_row
        conversations, phase = self.conversations, self.conversations.mixture.phase(step, self.config.steps)
        return lambda rng: conversations.row(rng, phase)

    def _first_row(self, rng: Random) -> TrainingExample:
        effort: Effort = "none" if rng.random() < self.config.none_share else "high"
        return render_training(self.tokenizer, conversation(self.config, rng, effort), effort=effort)

    def _padding(self, length: int) -> TrainingExample:
        pad_id = self.tokenizer.special_id("<pad>")
        return TrainingExample([pad_id] * length, [False] * length)


def training_batch(config: TrainConfig, tokenizer: Tokenizer, step: int) -> Batch:
    """The batch of one step; same arguments, same batch."""
    return Feed(config, tokenizer).batch(step)


def training_tokenizer(config: TrainConfig) -> Tokenizer:
    """The nano's tokenizer; where the model reads images, cut into the patches of its tower."""
    return Tokenizer.from_content(training_tekken(config), "tekken.json")


def training_tekken(config: TrainConfig) -> dict[str, Any]:
    """The content of its file."""
    if config.model.vision is None:
        return dict(json.loads(NANO_TEKKEN.read_bytes()))
    return nano_tekken(vision=config.model.vision)


def conversation(config: TrainConfig, rng: Random, effort: Effort) -> tuple[Message, ...]:
    """One conversation of the first nano, of problems that are not held out.

    With effort high it holds one problem and its thought; with effort none several short turns, so that template tokens
    do not drown the answers.
    """
    assert not isinstance(config.mix, Mixture), "a mixture draws its own conversations"
    messages = [Message("system", rng.choice(_SYSTEMS))] if rng.random() < 0.15 else []
    for _ in range(rng.randint(1, MAX_NONE_TURNS) if effort == "none" else 1):
        problem = sample_problem(config.mix[effort], rng)
        messages += [Message("user", problem.question), assistant_turn(problem, effort)]
    return tuple(messages)


def sample_problem(mix: dict[str, float], rng: Random, held_out: bool = False) -> Problem:
    """A problem of the mix, on the asked side of the split. Talk has no split: its questions are few."""
    source = Source(rng, held_out)
    while True:
        skill = rng.choices(list(mix), list(mix.values()))[0]
        problem = SKILLS[skill](source)
        if skill == "talk" or problem.is_held_out() == held_out:
            return problem


def assistant_turn(problem: Problem, effort: Effort) -> Message:
    """The wanted answer, behind its thought where effort is high."""
    if effort == "none":
        return Message("assistant", problem.answer)
    return Message("assistant", (ThinkPart(problem.thought), TextPart(problem.answer)))


def pack(rows: Sequence[TrainingExample]) -> Batch:
    """Rows -> one packed batch."""
    lengths = [len(row.token_ids) for row in rows]
    targets_T = torch.from_numpy(np.concatenate([np.array(row.is_target, np.bool_) for row in rows]))
    tokens_T = torch.from_numpy(np.concatenate([np.array(row.token_ids, np.int64) for row in rows]))
    target_places_M = targets_T.nonzero().squeeze(1)  # never a row's first token: every row opens with the prompt
    return Batch(
        tokens_T=tokens_T,
        positions_T=torch.from_numpy(np.concatenate([np.arange(length) for length in lengths])),
        lengths=lengths,
        source_M=target_places_M - 1,
        target_M=tokens_T[target_places_M],
        images=tuple(torch.from_numpy(image) for row in rows for image in row.images),
    )
