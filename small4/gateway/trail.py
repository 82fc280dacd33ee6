"""What became of each request on its way: every route that was tried or passed over, why, and how long it took."""

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Literal

from small4.errors import Small4Error
from small4.gateway.needs import Needs
from small4.gateway.routing import Routing

MAX_REASON = 500  # characters


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One route's part in a request."""

    route: str
    result: Literal["answered", "failed", "left", "passed over"]
    attempt: int | None = None  # its number in the ledger; None: it was not asked
    error_class: str | None = None
    reason: str = ""  # in words, for people
    has_started: bool = False  # whether the caller had seen something of its answer
    first_token_seconds: float | None = None
    duration_seconds: float | None = None


@dataclass(slots=True)
class Trail:
    """The steps of one request, in order."""

    request_id: str
    key: str  # whose it is; nobody else may see it
    needs: Needs | None = None  # of the request, as it was routed
    routing: Routing | None = None  # the decision; None: it was not come to, or a test made none
    steps: list[Step] = field(default_factory=list)
    route: str | None = None  # that answers, or did

    def pass_over(self, route: str, reason: str, error_class: str | None = None) -> None:
        """Note a route that was not asked."""
        self.steps.append(Step(route=route, result="passed over", reason=reason, error_class=error_class))


class Trails:
    """The latest requests' trails; older ones are forgotten."""

    def __init__(self, max_trails: int) -> None:
        self._max_trails = max_trails
        self._by_id: OrderedDict[str, Trail] = OrderedDict()

    def begin(self, request_id: str, key: str) -> Trail:
        """The trail of a new request."""
        trail = self._by_id[request_id] = Trail(request_id, key)
        if len(self._by_id) > self._max_trails:
            self._by_id.popitem(last=False)
        return trail

    def find(self, request_id: str, key: str) -> Trail | None:
        """A request of this key; another's is as one that never was."""
        trail = self._by_id.get(request_id)
        return trail if trail is not None and trail.key == key else None


def reason_of(error: Exception) -> str:
    """What may be told of an error: our own sentences, and of any other only that there was one."""
    return str(error)[:MAX_REASON] if isinstance(error, Small4Error) else "an internal fault"
