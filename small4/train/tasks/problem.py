"""What every skill's generator makes: a question, the thought that leads to the answer, and a checker.

A problem is held out of training by a hash of its `key`, which leaves out wording and the order of operands, so that no
training text holds an evaluation problem in another dress.
"""

import hashlib
import re
from dataclasses import dataclass

HELD_OUT_ONE_IN = 10


@dataclass(frozen=True, slots=True)
class Problem:
    """One question with its worked thought and exact answer."""

    skill: str
    key: str  # what makes two problems the same whatever the wording
    question: str
    thought: str
    answer: str

    def is_held_out(self) -> bool:
        return is_held_out(self.key)

    def accepts(self, text: str) -> bool:
        """Whether an answer's last number (or the whole text, for words) is the right one."""
        if not re.fullmatch(r"-?\d+", self.answer):
            return text.strip() == self.answer
        numbers = re.findall(r"-?\d+", text.replace(",", ""))
        return bool(numbers) and numbers[-1] == self.answer


def is_held_out(key: str) -> bool:
    """True for one key in ten, the same ones for ever."""
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % HELD_OUT_ONE_IN == 0
