"""A request that HTTP itself gives a reason to refuse, with the status and headers that say so."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from small4.errors import Small4Error
from small4.wire.problem import Kind, Problem, problem_of

CLOSE = {"connection": "close"}


@dataclass
class Refusal(Small4Error):
    """A status that no exception of `errors` stands for; `kind` is the nearest word that the dialects have."""

    status: int
    kind: Kind
    message: str
    headers: Mapping[str, str] = field(default_factory=dict)
    code: str | None = None

    def __str__(self) -> str:
        return self.message

    @property
    def problem(self) -> Problem:
        return Problem(self.kind, self.message, code=self.code, exact_status=self.status)


def problem_behind(error: Exception) -> Problem:
    """What an exception means to a caller."""
    return error.problem if isinstance(error, Refusal) else problem_of(error)
