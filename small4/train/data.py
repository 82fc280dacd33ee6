"""Synthetic conversations -> packed batches, a pure function of (config, step): resuming needs no data position.

A row is one conversation through the real chat template. With effort high it holds one problem with its thought; with
effort none it holds several short turns, so that template tokens do not drown the answers. Only the assistant's tokens
carry loss.
"""

from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
from torch import Tensor

from small4.chat import Effort, Message, TextPart, ThinkPart
from small4.tokenizer.tekken import Tokenizer
from small4.tokenizer.template import render_training
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


def training_batch(config: TrainConfig, tokenizer: Tokenizer, step: int) -> Batch:
    """The batch of one step; same arguments, same batch."""
    rng = Random(f"{config.seed} {step}")
    rows: list[tuple[list[int], list[bool]]] = []
    while sum(len(tokens) for tokens, _ in rows) < config.tokens_per_step:
        effort: Effort = "none" if rng.random() < config.none_share else "high"
        row = render_training(tokenizer, conversation(config, rng, effort), effort=effort)
        rows.append((row.token_ids, row.is_target))
    return pack(rows)


def conversation(config: TrainConfig, rng: Random, effort: Effort) -> tuple[Message, ...]:
    """One conversation of problems that are not held out."""
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


def pack(rows: list[tuple[list[int], list[bool]]]) -> Batch:
    """Rows of (token ids, whether each is a target) -> one packed batch."""
    lengths = [len(tokens) for tokens, _ in rows]
    targets_T = torch.tensor([flag for _, flags in rows for flag in flags])
    tokens_T = torch.tensor([token for tokens, _ in rows for token in tokens])
    target_places_M = targets_T.nonzero().squeeze(1)  # never a row's first token: every row opens with the prompt
    return Batch(
        tokens_T=tokens_T,
        positions_T=torch.cat([torch.arange(length) for length in lengths]),
        lengths=lengths,
        source_M=target_places_M - 1,
        target_M=tokens_T[target_places_M],
    )
