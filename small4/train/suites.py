"""What a nano is examined in: which skills, which of them a model can be asked, and whether training has seen them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from small4.chat import ImagePart, TextPart
from small4.errors import ConfigError
from small4.train.data import sample_problem
from small4.train.tasks.problem import Problem
from small4.train.tasks.skills import IMAGES, SKILLS, sample

FIRST_SUITES = (
    "sum2",
    "sum3",
    "sum4",
    "sum5",
    "sum6",
    "chain2",
    "chain3",
    "chain4",
    "product2x1",
    "product2x2",
    "talk",
)
WHOLE_SUITES = tuple(
    (
        "sum2 sum4 sum6 chain2 chain4 chain6 product2x1 product2x2 story2 story4 story5 story6 sort6 reverse8 count "
        "largest8 repeats8 brackets8 tool_one tool_twelve tool_parallel tool_several tool_none tool_result tool_error "
        "extraction faq_en faq_fr faq_de faq_es faq_it unknown obey_language obey_length obey_form image_colour "
        "image_count image_relation image_largest image_describe image_digits copy needle16 needle60 needle300"
    ).split()
)
CONTEXT_NEEDED = {"needle60": 1_536, "needle300": 4_608, "tool_twelve": 2_560}  # tokens, answer included

RECORD = "training.json"  # beside the weights: how they were made


@dataclass(frozen=True, slots=True)
class Contamination:
    """Whether what is asked was in training."""

    asked: int  # different problems
    not_held_out: tuple[str, ...]  # suites with a problem that training may draw
    drawn: int  # training problems drawn to compare with, of the same skills
    seen: int  # asked problems, or their very questions, among those


def default_suites(checkpoint: Path | None, *, has_vision: bool, context_length: int) -> tuple[tuple[str, ...], str]:
    """The suites of what a checkpoint was trained on, all where that is not known; and what was left out, and why."""
    suites = WHOLE_SUITES
    if checkpoint is not None and (checkpoint / RECORD).is_file():
        mix = json.loads((checkpoint / RECORD).read_text()).get("config", {}).get("mix", {})
        suites = WHOLE_SUITES if "groups" in mix else FIRST_SUITES
    blind = [suite for suite in suites if suite in IMAGES and not has_vision]
    short = [suite for suite in suites if CONTEXT_NEEDED.get(suite, 0) > context_length]
    notes = []
    if blind:
        notes.append(f"left out, since this model reads no images: {', '.join(blind)}")
    if short:
        notes.append(f"left out, since the context has {context_length} tokens: {', '.join(short)}")
    return tuple(suite for suite in suites if suite not in (*blind, *short)), "; ".join(notes)


def check_suites(suites: Sequence[str], n: int) -> None:
    """Refuse what cannot be asked; a training calls this first, since its evaluation comes an hour later."""
    unknown = [suite for suite in suites if suite not in SKILLS]
    if unknown:
        raise ConfigError(f"unknown suite {', '.join(map(repr, unknown))}; there are {', '.join(SKILLS)}")
    if n < 1:
        raise ConfigError(f"n is {n}; ask at least 1 problem")


def held_out_problems(suite: str, n: int) -> list[Problem]:
    """The evaluation problems of one suite; none of them can be in a training text."""
    rng = Random(f"evaluation {suite}")
    return [sample_problem({suite: 1.0}, rng, held_out=True) for _ in range(n)]


def contamination(suites: Sequence[str], n: int, draws: int = 200) -> Contamination:
    """Compare what is asked with the rule of the split, and with `draws` training problems of each skill."""
    asked: set[str] = set()
    seen: set[str] = set()
    not_held_out = []
    for suite in suites:
        problems = held_out_problems(suite, n)
        prints = {print_of(problem) for problem in problems} | {problem.key for problem in problems}
        asked |= {problem.key for problem in problems}
        if not all(problem.is_held_out() for problem in problems):
            not_held_out.append(suite)
        rng = Random(f"contamination {suite}")
        for problem in (sample(suite, rng) for _ in range(draws)):
            seen |= prints & {print_of(problem), problem.key}
    return Contamination(len(asked), tuple(not_held_out), draws * len(suites), len(seen))


def print_of(problem: Problem) -> str:
    """What the user reads and shows, whatever stands before and after."""
    if isinstance(problem.question, str):
        return problem.question
    parts = (part for part in problem.question if isinstance(part, TextPart | ImagePart))
    return " ".join(part.text if isinstance(part, TextPart) else part.data.hex() for part in parts)
