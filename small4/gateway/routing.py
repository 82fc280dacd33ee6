"""Which routes may answer a request, in the order in which they are tried, and why each of the others may not.

    rules       what takes a route away: the policy, the request's needs, a key or an engine that is not there
    order       the routes that the request names first, in its order
    wishes      routes that are not known to be as fast as wished go behind those that are
    sort        by one metric, or by a blend; by price if nothing is said; equal ones by name

Pure: what the routes are, what they are claimed to be and how fast they were is handed in.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from small4.catalog.route import Route
from small4.errors import ContextLengthError, NoRouteError
from small4.gateway.health import Measurement
from small4.gateway.needs import Needs
from small4.gateway.policy import Policy, Preference, covers
from small4.gateway.rules import Reason, reasons_against
from small4.gateway.scores import MORE_IS_BETTER, Scores, blends, meets_wishes, scores_of

SHOWN_ROUTES = 8  # in a message


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranked:
    """A route that may answer, with its scores and its place."""

    route: Route
    scores: Scores
    place: int | None = None  # in the request's `order`, from 0
    is_as_wished: bool = True


@dataclass(frozen=True, slots=True)
class Removed:
    """A route that may not, and every reason for it."""

    route: Route
    reasons: tuple[Reason, ...]


@dataclass(frozen=True, slots=True)
class Routing:
    """The decision about one request."""

    candidates: tuple[Ranked, ...]  # to be tried in this order
    removed: tuple[Removed, ...]

    def required(self) -> tuple[Ranked, ...]:
        """The candidates; an error that names what removed each route if there is none, or that the request is long."""
        if self.candidates:
            return self.candidates
        if self.removed and all(reason.rule == "context" for one in self.removed for reason in one.reasons):
            raise ContextLengthError(_told(self.removed))
        raise NoRouteError(_told(self.removed))


def route_request(
    routes: Iterable[Route],
    policy: Policy,
    preference: Preference,
    needs: Needs,
    *,
    measured: Mapping[str, Measurement] | None = None,
    unready: Mapping[str, str] | None = None,
) -> Routing:
    """Decide about one request.

    `policy` is the server's for the caller's key, narrowed by the request's. `measured` and `unready` are by the
    name of a route; `unready` says why one cannot be asked now: no key, an open circuit, an engine that is not loaded.
    """
    speeds, closed = measured or {}, unready or {}
    removed: list[Removed] = []
    candidates: list[Ranked] = []
    for route in sorted(routes, key=lambda route: route.name):
        reasons = reasons_against(route, policy, needs)
        if route.name in closed:
            reasons = (*reasons, Reason("ready", closed[route.name]))
        if reasons:
            removed.append(Removed(route, reasons))
        else:
            candidates.append(_ranked(route, preference, needs, speeds.get(route.name)))
    ordered = _ordered(candidates, preference)
    kept = ordered if policy.allow_fallbacks else _without_fallbacks(ordered, preference)
    removed += [
        Removed(c.route, (Reason("allow_fallbacks", "no fallback is allowed, and another route comes first"),))
        for c in ordered[len(kept) :]
    ]
    return Routing(tuple(kept), tuple(removed))


def _ranked(route: Route, preference: Preference, needs: Needs, measured: Measurement | None) -> Ranked:
    return Ranked(
        route=route,
        scores=scores_of(route, needs, measured),
        place=next((i for i, slug in enumerate(preference.order) if covers(slug, route.name)), None),
        is_as_wished=meets_wishes(measured, preference),
    )


def _ordered(candidates: list[Ranked], preference: Preference) -> list[Ranked]:
    weights = preference.weights or {"price": 1.0}
    if len(weights) > 1:
        blended = zip(candidates, blends([c.scores for c in candidates], weights), strict=True)
        candidates = [replace(c, scores=replace(c.scores, blend=blend)) for c, blend in blended]
    metric = next(iter(weights))

    def key(candidate: Ranked) -> tuple[float, bool, bool, float]:
        blend = candidate.scores.blend
        value = candidate.scores.of(metric) if blend is None else blend
        more_is_better = blend is not None or MORE_IS_BETTER[metric]
        place = float("inf") if candidate.place is None else candidate.place
        rank = 0.0 if value is None else -value if more_is_better else value
        return place, not candidate.is_as_wished, value is None, rank

    return sorted(candidates, key=key)


def _without_fallbacks(ordered: list[Ranked], preference: Preference) -> list[Ranked]:
    """The routes of the request's `order`, or the first one where it has none."""
    return [c for c in ordered if c.place is not None] if preference.order else ordered[:1]


def _told(removed: tuple[Removed, ...]) -> str:
    """Which rule removed how many, and what each found at the first routes."""
    if not removed:
        return "there is no route to this model; add a provider's key, or load the model on this machine"
    counts = Counter(reason.rule for one in removed for reason in one.reasons)
    examples = [
        f"{one.route.name}: {', '.join(reason.text for reason in one.reasons)}" for one in removed[:SHOWN_ROUTES]
    ]
    more = f"; and {len(removed) - SHOWN_ROUTES} more" if len(removed) > SHOWN_ROUTES else ""
    rules = ", ".join(f"{rule} ({number})" for rule, number in counts.most_common())
    return f"no route is left of {len(removed)}: {rules} removed them. {'; '.join(examples)}{more}. Loosen one of these"
