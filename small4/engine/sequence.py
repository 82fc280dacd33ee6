"""One generation: what was asked, its tokens, its blocks and its counters. Plain bookkeeping, no tensors.

A step runs `tokens[num_computed : num_computed + n]`. Where that reaches the end of `tokens`, the step also draws the
next token. Prompt chunks, decoding and recomputing after a preemption are all this one rule.
"""

from collections.abc import Sequence as Items
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Literal

from small4.chat import FinishReason

if TYPE_CHECKING:
    from torch import Tensor

    from small4.engine.steering import Steering

Status = Literal["waiting", "running", "ended"]


class Priority(IntEnum):
    """Who goes first. Each class gets eight times the share of the next one while both wait; none is left out."""

    HIGH = 0
    NORMAL = 1
    LOW = 2


@dataclass(eq=False, slots=True)
class Sequence:
    """One generation in the engine; the scheduler moves blocks and counters, the engine appends tokens."""

    id: int  # counts up in order of arrival
    tokens: list[int]  # prompt, then output
    num_prompt: int  # tokens
    max_tokens: int  # of output
    stop_ids: frozenset[int]  # end it, and stand in the output
    steering: "Steering"  # how its tokens are drawn
    root_key: bytes  # begins its chain of block keys
    caller: str = ""  # callers share the engine fairly
    priority: Priority = Priority.NORMAL
    images: Items["Tensor"] = ()
    image_rows: "Tensor | None" = None  # [image tokens, D], once computed
    leader: "Sequence | None" = None  # the sequence of the same request that computes the shared prompt

    status: Status = "waiting"
    num_computed: int = 0  # tokens whose latents the cache holds
    num_cached: int = 0  # of those, found in the prefix cache at the first admission
    num_preemptions: int = 0
    blocks: list[int] = field(default_factory=list)
    block_keys: list[bytes] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    error: Exception | None = None

    @property
    def num_output(self) -> int:
        return len(self.tokens) - self.num_prompt

    @property
    def output(self) -> list[int]:
        return self.tokens[self.num_prompt :]

    @property
    def index(self) -> int:
        """Its number among the sequences of its request."""
        return self.steering.state.index

    @property
    def num_shared(self) -> int:
        """Tokens of the prompt that its request found in the prefix cache, rather than from its own leader."""
        return (self.leader or self).num_cached

    @property
    def is_ready(self) -> bool:
        """Whether it may be admitted: the others of a request wait for the prompt that they share."""
        leader = self.leader
        return leader is None or leader.status == "ended" or leader.num_computed >= leader.num_prompt

    @property
    def rank(self) -> tuple[int, int]:
        """Who keeps its blocks when they run short: low first; having been preempted raises a sequence."""
        return max(0, self.priority - self.num_preemptions), self.id
