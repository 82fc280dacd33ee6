"""Every metric in one table: its name in Prometheus, its name in OpenTelemetry's conventions, and what it counts.

Names of the GenAI conventions become Prometheus names by the conventions' own rule: dots to underscores, the unit at
the end. What has no OpenTelemetry name begins with `small4_`. Labels take few values: models are those served, paths
those of the table, and callers are in none.
"""

from dataclasses import dataclass
from typing import Literal

SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
PER_TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144)
LAG_SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)


@dataclass(frozen=True, slots=True)
class Metric:
    """One row."""

    kind: Literal["counter", "gauge", "histogram"]
    name: str
    semantic_name: str | None  # in OpenTelemetry
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


_MODEL = ("gen_ai_operation_name", "gen_ai_request_model")

METRICS = {
    "token_usage": Metric(
        "histogram",
        "gen_ai_client_token_usage",
        "gen_ai.client.token.usage",
        "Tokens of one request: input, output; of them cached and reasoning; estimated where the client left",
        (*_MODEL, "gen_ai_token_type", "is_estimate"),
        TOKENS,
    ),
    "duration": Metric(
        "histogram",
        "gen_ai_server_request_duration_seconds",
        "gen_ai.server.request.duration",
        "From the request's headers to the end of its answer",
        (*_MODEL, "error_type"),
        SECONDS,
    ),
    "first_token": Metric(
        "histogram",
        "gen_ai_server_time_to_first_token_seconds",
        "gen_ai.server.time_to_first_token",
        "From the request's headers to the first event of its answer",
        _MODEL,
        SECONDS,
    ),
    "per_token": Metric(
        "histogram",
        "gen_ai_server_time_per_output_token_seconds",
        "gen_ai.server.time_per_output_token",
        "Between tokens after the first, on average over one answer",
        _MODEL,
        PER_TOKEN_SECONDS,
    ),
    "http_duration": Metric(
        "histogram",
        "http_server_request_duration_seconds",
        "http.server.request.duration",
        "Every request, by path of the table",
        ("http_request_method", "http_route", "http_response_status_code"),
        SECONDS,
    ),
    "running": Metric("gauge", "small4_requests_running", None, "Requests that are being answered"),
    "queued": Metric("gauge", "small4_requests_queued", None, "Requests that wait for their turn"),
    "held_body_bytes": Metric("gauge", "small4_body_bytes_held", None, "Bodies and fetched images of all requests"),
    "kept_answers": Metric("gauge", "small4_kept_answers", None, "Answers kept for their Idempotency-Key"),
    "left": Metric("counter", "small4_clients_left_total", None, "Answers whose client left before their end"),
    "route_attempts": Metric(
        "counter",
        "small4_route_attempts_total",
        None,
        "Attempts of a gateway's route by their end: success, the class of the error, or unknown: left, stopped here",
        ("route", "result"),
    ),
    "route_tokens": Metric(
        "counter", "small4_route_output_tokens_total", None, "Tokens that a route wrote in whole answers", ("route",)
    ),
    "route_open": Metric(
        "gauge", "small4_route_left_alone", None, "1 while a route is left alone, since it failed", ("route",)
    ),
    "loop_lag": Metric(
        "histogram", "small4_event_loop_lag_seconds", None, "How late the event loop runs a timer", (), LAG_SECONDS
    ),
}
