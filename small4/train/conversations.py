"""Rows of a mixture: conversations through the real chat template, each skill with its share of the tokens.

A row is drawn by its first exchange. Exchanges that may share a row stand one to `max_turns` in it, all of one effort;
the others stand alone. With s the share of a skill and effort, t its mean tokens and k the mean number of exchanges of
such a row (1 of those alone), rows begin with it at a weight of s / (t k), and further exchanges follow at s / t.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from random import Random

from small4.chat import EFFORTS, Effort, Message
from small4.tokenizer.tekken import ControlIds, Tokenizer
from small4.tokenizer.template import TrainingExample, render_training
from small4.train.mixture import Mixture, Phase
from small4.train.tasks.problem import Problem, without_thought
from small4.train.tasks.skills import sample

CALIBRATION_ROWS = 16  # of each skill and effort, to know its mean length

SYSTEMS = ("You are a helpful assistant.", "You are nano.", "Be brief.", "You are a demo.", "Answer the user.")

Kind = tuple[str, Effort]


@dataclass(frozen=True, slots=True)
class _Law:
    """What is drawn in one phase."""

    first: dict[Kind, float]  # weights of a row's first exchange
    further: dict[Effort, dict[Kind, float]]  # weights of the exchanges behind it


class Conversations:
    """Draws the rows of a mixture."""

    def __init__(self, mixture: Mixture, tokenizer: Tokenizer) -> None:
        self.mixture = mixture
        self.tokenizer = tokenizer
        kinds = {kind for phase in mixture.phases for kind in mixture.weights(phase)}
        self.mean_tokens = {kind: mean_tokens(tokenizer, *kind) for kind in sorted(kinds)}
        self.laws = [self._law(phase) for phase in mixture.phases]

    def row(self, rng: Random, phase: int) -> TrainingExample:
        """A conversation of a phase that is within the limit."""
        while True:
            row = self._render(rng, self.mixture.phases[phase], *self.exchanges(rng, phase))
            if len(row.token_ids) <= self.mixture.max_row_tokens:
                return row

    def exchanges(self, rng: Random, phase: int) -> tuple[list[Problem], Effort]:
        """The problems of one row, and the effort at which they are answered."""
        law = self.laws[phase]
        skill, effort = _choose(rng, law.first)
        problems = [sample(skill, rng)]
        if skill not in self.mixture.alone:
            for _ in range(rng.randint(1, self.mixture.phases[phase].max_turns[effort]) - 1):
                problems.append(sample(_choose(rng, law.further[effort])[0], rng))
        return problems, effort

    def _law(self, phase: Phase) -> _Law:
        shares = self.mixture.weights(phase)
        each = {kind: share / self.mean_tokens[kind] for kind, share in shares.items()}
        alone = self.mixture.alone
        first = {
            (skill, effort): weight / (1 if skill in alone else (1 + phase.max_turns[effort]) / 2)
            for (skill, effort), weight in each.items()
        }
        further = {
            effort: {kind: weight for kind, weight in each.items() if kind[1] == effort and kind[0] not in alone}
            for effort in EFFORTS
        }
        return _Law(first, further)

    def _render(self, rng: Random, phase: Phase, problems: list[Problem], effort: Effort) -> TrainingExample:
        is_hidden = effort == "high" and len(problems) > 1 and rng.random() < phase.hidden_share
        messages = conversation(problems, effort, is_hidden)
        if problems[0].system is None and rng.random() < self.mixture.system_share:
            messages.insert(0, Message("system", rng.choice(SYSTEMS)))
        row = render_training(self.tokenizer, messages, tools=problems[0].tools, effort=effort)
        row = last_turn_only(row, self.tokenizer.control) if is_hidden else row
        if effort == "high" and rng.random() < self.mixture.cut_share:
            row = cut_thought(row, self.tokenizer.control, rng)
        return row


def conversation(problems: Sequence[Problem], effort: Effort, is_hidden: bool = False) -> list[Message]:
    """The exchanges one after another; `is_hidden` leaves out all thoughts but those of the last."""
    messages: list[Message] = []
    for index, problem in enumerate(problems):
        turn = [*problem.asked(thinks=effort == "high"), problem.answered(thinks=effort == "high")]
        hides = is_hidden and index < len(problems) - 1
        messages += [without_thought(message) for message in turn] if hides else turn
    return messages


def cut_thought(row: TrainingExample, control: ControlIds, rng: Random) -> TrainingExample:
    """The row with its last thought closed early, as a budget does; nobody chose to, so the mark is not learned."""
    ids = row.token_ids
    close = len(ids) - 1 - ids[::-1].index(control.end_think)
    opened = close - 1 - ids[:close][::-1].index(control.think)
    budget = rng.randint(0, max(0, close - opened - 2))  # tokens of the thought that stay
    kept = [*range(opened + 1 + budget), *range(close, len(ids))]
    is_target = [row.is_target[place] and place != close for place in kept]
    return TrainingExample([ids[place] for place in kept], is_target, row.images)


def last_turn_only(row: TrainingExample, control: ControlIds) -> TrainingExample:
    """The row with loss behind the last user turn alone: earlier turns lack the thoughts that led to them."""
    begin = len(row.token_ids) - row.token_ids[::-1].index(control.end_inst)
    is_target = [flag and place >= begin for place, flag in enumerate(row.is_target)]
    return TrainingExample(row.token_ids, is_target, row.images)


@lru_cache(maxsize=1024)  # a run measures each once, and the runs of a process the same ones
def mean_tokens(tokenizer: Tokenizer, skill: str, effort: Effort) -> float:
    """Tokens of one exchange, the template's opening not counted, over a fixed sample."""
    rng = Random(f"length {skill} {effort}")
    rows = [
        render_training(tokenizer, conversation([problem], effort), tools=problem.tools, effort=effort)
        for problem in (sample(skill, rng) for _ in range(CALIBRATION_ROWS))
    ]
    return max(1.0, sum(len(row.token_ids) for row in rows) / len(rows) - opening_tokens(tokenizer, effort))


def opening_tokens(tokenizer: Tokenizer, effort: Effort) -> int:
    """Tokens that a conversation has once, whatever its exchanges."""
    one = [Message("user", ""), Message("assistant", "x")]
    once, twice = (render_training(tokenizer, one * times, effort=effort) for times in (1, 2))
    return 2 * len(once.token_ids) - len(twice.token_ids)


def _choose(rng: Random, weights: dict[Kind, float]) -> Kind:
    return rng.choices(list(weights), list(weights.values()))[0]
