"""Why a request went where it went, for programs: the decision, and every attempt with its times."""

from collections.abc import Mapping
from typing import Any

from small4.gateway.needs import Needs
from small4.gateway.routing import Ranked, Routing
from small4.gateway.trail import Step, Trail


def explain(trail: Trail, missing: Mapping[str, str]) -> dict[str, Any]:
    """Everything about one request; `missing` are the routes that could not be asked from here, and why."""
    decision = None
    if trail.routing is not None and trail.needs is not None:
        decision = explain_routing(trail.routing, trail.needs)
        decision["removed"] += [
            {"route": route, "reasons": [{"rule": "ready", "text": text}]} for route, text in missing.items()
        ]
    return {
        "request_id": trail.request_id,
        "route": trail.route,
        "decision": decision,
        "attempts": [_step(step) for step in trail.steps],
    }


def explain_routing(routing: Routing, needs: Needs) -> dict[str, Any]:
    """A decision: the candidates in the order of their scores, and what removed each of the others."""
    return {
        "prompt_tokens": needs.prompt_tokens,
        "output_tokens": needs.output_tokens,
        "candidates": [_ranked(candidate) for candidate in routing.candidates],
        "removed": [
            {"route": one.route.name, "reasons": [{"rule": r.rule, "text": r.text} for r in one.reasons]}
            for one in routing.removed
        ],
    }


def _ranked(candidate: Ranked) -> dict[str, Any]:
    scores = candidate.scores
    return {
        "route": candidate.route.name,
        "usd": None if scores.usd is None else format(scores.usd.normalize(), "f"),
        "throughput": scores.throughput,
        "latency_seconds": scores.latency_seconds,
        "uptime": scores.uptime,
        "blend": scores.blend,
        "place": candidate.place,
        "is_as_wished": candidate.is_as_wished,
    }


def _step(step: Step) -> dict[str, Any]:
    return {
        "route": step.route,
        "result": step.result,
        "attempt": step.attempt,
        "error_class": step.error_class,
        "reason": step.reason,
        "has_started": step.has_started,
        "first_token_seconds": _rounded(step.first_token_seconds),
        "duration_seconds": _rounded(step.duration_seconds),
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)
