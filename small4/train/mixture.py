"""The whole mix: which skills a run reads, how much of each, and how that changes on its way.

Shares are of tokens, questions and tools included, since those are what a step's time goes to. The run begins with
short forms; ends, while the learning rate falls, with whole conversations; and in between reads everything, one
exchange a row where the model thinks.
"""

from dataclasses import dataclass, replace
from itertools import chain

from small4.chat import EFFORTS, Effort
from small4.errors import ConfigError
from small4.train.tasks.skills import SKILLS


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Skills of one kind."""

    share: float  # of all tokens
    high_share: float  # of the group's tokens, with effort high
    skills: dict[str, float]  # skill -> share of the group's tokens
    is_alone: bool = False  # one exchange a row: tools, rules and long texts belong to a whole conversation

    def __post_init__(self) -> None:
        unknown = [skill for skill in self.skills if skill not in SKILLS]
        if unknown:
            raise ConfigError(
                f"unknown skills {', '.join(unknown)}; small4/train/tasks/skills.py names those there are"
            )
        if not 0 <= self.high_share <= 1 or self.share < 0:
            raise ConfigError(f"share is {self.share}, high_share {self.high_share}; a share lies in 0 to 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """One stretch of a run."""

    until: float  # share of all steps
    skills: tuple[str, ...] | None = None  # only these; None: all
    max_turns: dict[Effort, int]  # exchanges in a row
    hidden_share: float = 0.0  # of conversations, with earlier thoughts left out, as many clients do


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """What a run reads."""

    groups: dict[str, Group]
    phases: tuple[Phase, ...]
    max_row_tokens: int = 1024  # a longer conversation is drawn anew
    cut_share: float = 0.1  # of thoughts, closed at a random place, as a thinking budget does
    system_share: float = 0.15  # of rows without a rule, with some system prompt
    is_padded: bool = False  # every step has exactly tokens_per_step, as a compiled step needs

    def __post_init__(self) -> None:
        ends = [phase.until for phase in self.phases]
        if not ends or ends != sorted(ends) or ends[-1] != 1.0:
            raise ConfigError(f"phases end at {ends}; they must rise to 1.0")
        if not self.groups:
            raise ConfigError("a mixture needs a group of skills")

    def phase(self, step: int, steps: int) -> int:
        """Which phase a step lies in."""
        return next(index for index, phase in enumerate(self.phases) if step < phase.until * steps)

    def weights(self, phase: Phase) -> dict[tuple[str, Effort], float]:
        """Share of the tokens for each skill and effort in a phase."""
        shares: dict[tuple[str, Effort], float] = {}
        for group in self.groups.values():
            skills = {s: w for s, w in group.skills.items() if phase.skills is None or s in phase.skills}
            for skill, effort in ((skill, effort) for skill in skills for effort in EFFORTS):
                of_effort = group.high_share if effort == "high" else 1 - group.high_share
                share = group.share * of_effort * skills[skill] / sum(skills.values())
                if share > 0:
                    shares[skill, effort] = share
        return shares

    @property
    def alone(self) -> frozenset[str]:
        """Skills whose exchanges stand alone in their row."""
        return frozenset(chain.from_iterable(group.skills for group in self.groups.values() if group.is_alone))


SHORT_SKILLS = tuple(
    (
        "sum2 sum3 chain2 product2x1 story1 story2 sort2 sort3 sort4 reverse3 reverse4 largest3 largest4 repeats4 "
        "count brackets4 tool_one tool_none extraction unknown obey_language obey_length obey_form image_colour "
        "image_count image_digits copy needle4 faq_en faq_fr faq_de faq_es faq_it"
    ).split()
)

PHASES = (
    Phase(until=0.15, skills=SHORT_SKILLS, max_turns={"none": 6, "high": 1}),
    Phase(until=0.7, max_turns={"none": 6, "high": 1}),
    Phase(until=1.0, max_turns={"none": 6, "high": 3}, hidden_share=0.5),
)


def _even(*names: str) -> dict[str, float]:
    return dict.fromkeys(names, 1.0)


ARITHMETIC = Group(
    share=0.28,
    high_share=0.67,
    skills={
        **{"sum2": 3.0, "sum3": 1.5, "sum4": 2.0, "sum5": 1.0, "sum6": 1.5},
        **{
            "chain2": 1.5,
            "chain3": 1.0,
            "chain4": 1.5,
            "chain5": 0.7,
            "chain6": 1.0,
            "product2x1": 1.5,
            "product2x2": 3.0,
        },
    },
)
STORIES = Group(
    share=0.15,
    high_share=0.85,
    skills={"story1": 0.7, "story2": 0.8, "story3": 1.0, "story4": 1.3, "story5": 1.3, "story6": 1.3},
)
LISTS = Group(
    share=0.12,
    high_share=0.6,
    skills={
        **{"sort3": 0.5, "sort4": 0.7, "sort5": 1.0, "sort6": 2.0},
        **{"reverse4": 0.5, "reverse6": 0.7, "reverse7": 0.8, "reverse8": 1.5},
        **{"largest4": 0.3, "largest6": 0.4, "largest8": 0.5, "repeats4": 0.3, "repeats6": 0.5, "repeats8": 0.7},
        **{"count": 2.0, "brackets4": 0.3, "brackets6": 0.4, "brackets8": 0.5, "brackets10": 0.5},
        **{"sort2": 0.2, "reverse3": 0.2, "largest3": 0.2},  # learned first, and seldom after
    },
)
TOOLS = Group(
    share=0.12,
    high_share=0.35,
    is_alone=True,
    skills={
        **{"tool_one": 3.0, "tool_twelve": 1.5, "tool_parallel": 2.0, "tool_several": 1.5},
        **{"tool_none": 1.0, "tool_result": 1.5, "tool_error": 1.5},
    },
)
EXTRACTION = Group(share=0.10, high_share=0.15, skills=_even("extraction"))
FAQ = Group(
    share=0.06, high_share=0.2, skills=_even(*(f"faq_{x}" for x in "en fr de es it".split())) | {"unknown": 3.0}
)
OBEY = Group(share=0.04, high_share=0.3, is_alone=True, skills=_even("obey_language", "obey_length", "obey_form"))
IMAGES = Group(
    share=0.10,
    high_share=0.4,
    skills=_even(*(f"image_{x}" for x in "colour count relation largest describe digits".split())),
)
RECALL = Group(
    share=0.03,
    high_share=0.2,
    is_alone=True,
    skills={"copy": 1.0, "needle4": 0.5, "needle16": 1.0, "needle60": 1.0, "needle300": 2.5},
)

WHOLE = Mixture(
    groups={
        "arithmetic": ARITHMETIC,
        "stories": STORIES,
        "lists": LISTS,
        "tools": TOOLS,
        "extraction": EXTRACTION,
        "faq": FAQ,
        "obey": OBEY,
        "images": IMAGES,
        "recall": RECALL,
    },
    phases=PHASES,
)


def without(mixture: Mixture, skills: frozenset[str]) -> dict[str, Group]:
    """The groups without some skills, such as those too long for a row."""
    return {
        name: replace(group, skills={skill: w for skill, w in group.skills.items() if skill not in skills})
        for name, group in mixture.groups.items()
    }
