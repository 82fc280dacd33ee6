"""Where a generator's chances come from: one seed, on one side of the split.

Held out for evaluation are one content in ten (`problem.is_held_out` of a problem's key), one name in ten, and one
wording in ten. A wording is a combination of phrases: each phrase is learned, but not next to those.
"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import product
from random import Random
from typing import TypeVar

from small4.train.tasks.problem import HELD_OUT_ONE_IN, hash_of, is_held_out

Item = TypeVar("Item")

_ONSETS = tuple("b br c d dr f g gr h j k l m n p r s st t tr v z".split())
_VOWELS = tuple("a e i o u".split())
_ENDS = ("", "", "n", "l", "r", "s")
_KNOWN_NAMES = tuple(
    "Ada Ali Amy Ana Ben Bob Carl Cleo Dan Dora Eli Elsa Emil Emma Eva Finn Fred Gina Greta Hugo Ida Ines Ivan Jana "
    "Jim Jon Kai Kim Lea Leo Lena Lina Lola Luca Lucy Mara Max Mia Mina Nadia Nina Noah Nora Olga Omar Otto Paul Pia "
    "Ravi Rosa Ruth Sam Sara Sven Theo Tim Tina Tom Uma Vera Victor Will Yara Yuki Zoe".split()
)


class Source:
    """Draws for one problem; two sources of equal seed and side draw alike."""

    def __init__(self, rng: Random, held_out: bool = False) -> None:
        self.rng = rng
        self.held_out = held_out

    def choice(self, options: Sequence[Item]) -> Item:
        """One of them, whatever the side."""
        return self.rng.choice(options)

    def number(self, low: int, high: int) -> int:
        """A whole number from low to high, both included."""
        return self.rng.randint(low, high)

    def chance(self, share: float) -> bool:
        """True in this share of the draws."""
        return self.rng.random() < share

    def wording(self, *parts: tuple[str, ...]) -> str:
        """One phrase of each part, joined; there must be ten combinations or more."""
        return self.rng.choice(_sides(parts)[self.held_out])

    def name(self) -> str:
        """A person's first name, known or made up."""
        if self.chance(0.4):
            return self.rng.choice(_sides((_KNOWN_NAMES,))[self.held_out])
        return self.made_up(2)

    def names(self, count: int) -> list[str]:
        """Different first names."""
        names: list[str] = []
        while len(names) < count:
            name = self.name()
            if name not in names:
                names.append(name)
        return names

    def city(self) -> str:
        """A town that is on no map."""
        return self.made_up(3 if self.chance(0.5) else 2)

    def made_up(self, syllables: int) -> str:
        """A capitalised word of our own."""
        while True:
            start = "".join(self.rng.choice(_ONSETS) + self.rng.choice(_VOWELS) for _ in range(syllables))
            name = (start + self.rng.choice(_ENDS)).capitalize()
            if is_held_out(f"name {name}") == self.held_out:
                return name

    def shuffled(self, options: Sequence[Item]) -> list[Item]:
        """All of them in another order."""
        return self.rng.sample(options, len(options))


@lru_cache(maxsize=1024)
def _sides(parts: tuple[tuple[str, ...], ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """All combinations, parted into those to learn and those to ask: the tenth with the smallest hashes."""
    combined = sorted({"".join(phrases) for phrases in product(*parts)}, key=hash_of)
    num_held_out = len(combined) // HELD_OUT_ONE_IN
    assert num_held_out >= 1, f"ten wordings or more can be split, not {len(combined)}"
    return tuple(combined[num_held_out:]), tuple(combined[:num_held_out])
