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
        return Problem(self.kind, self.message, code=self.code)


def problem_and_status(error: Exception) -> tuple[Problem, int | None]:
    """What an exception means to a caller, and its status where that is not the problem's own."""
    if isinstance(error, Refusal):
        return error.problem, error.status
    return problem_of(error), None
