"""Every path that is served: its methods, its handler, and what a key must open to use it."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from starlette.requests import Request
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Scope

from small4.server.auth import Needs
from small4.server.batch_endpoints import BYTES_TYPE, BatchEndpoints
from small4.server.endpoints import GOOGLE_VERBS, Endpoints
from small4.server.exchange import exchange_of
from small4.server.responses_endpoints import ResponsesEndpoints
from small4.server.routed_endpoints import RoutedEndpoints
from small4.server.status_endpoints import METRICS_TYPE, PAGE_TYPE, StatusEndpoints
from small4.server.token_endpoints import DetokenizeFields, TokenEndpoints, TokenizeFields
from small4.wire.anthropic_blocks import Body as MessagesFields
from small4.wire.chat_fields import ChatFields
from small4.wire.google_fields import Body as GenerateFields
from small4.wire.openai_batch import BatchFields, FileForm
from small4.wire.openai_text import TextRequestFields
from small4.wire.responses_fields import RequestFields as ResponsesFields

Handler = Callable[[Request], Awaitable[ASGIApp]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Path:
    """One row of the table."""

    path: str
    methods: tuple[str, ...]
    handler: Handler
    needs: Needs
    summary: str
    body: type | None = None  # the struct that a JSON body is decoded into
    takes: str = "application/json"  # the type of its body
    answers: bool = False  # whether a model does
    verbs: tuple[str, ...] = ()  # what may follow the last part after a colon, as in Google's paths
    content_types: tuple[str, ...] = ("application/json",)


OPENAI_MOUNTS = ("", "/openai", "/api")
GOOGLE_MOUNTS = ("/v1beta", "/v1", "/google/v1beta", "/google/v1")
MODEL_MOUNTS = ("/v1", "/openai/v1", "/anthropic/v1", "/mistral/v1", "/v1beta", "/google/v1beta", "/google/v1")


def table(
    endpoints: Endpoints,
    responses: ResponsesEndpoints,
    batches: BatchEndpoints,
    tokens: TokenEndpoints,
    status: StatusEndpoints,
    routed: RoutedEndpoints,
) -> list[Path]:
    """All rows."""
    return [
        *_status_paths(status),
        *_openai_paths(endpoints),
        *_responses_paths(endpoints, responses),
        *_anthropic_paths(endpoints),
        *_mistral_paths(endpoints),
        *_model_paths(endpoints),
        *_google_paths(endpoints),
        *_batch_paths(batches),
        *_token_paths(tokens),
        _get("/v1/small4/requests/{request}", routed.explain, "inference", "Where a request went, and why"),
    ]


def _status_paths(status: StatusEndpoints) -> list[Path]:
    return [
        _get("/", status.alive, "open", "That a server is here"),
        _get("/health", status.alive, "open", "That the process is alive"),
        _get("/ready", status.ready, "open", "Whether a request would be answered now"),
        _get("/metrics", status.metrics, "metrics", "Counters and times, for Prometheus", METRICS_TYPE),
        _get("/openapi.json", status.openapi, "any", "This list of paths, for programs"),
        _get("/docs", status.docs, "any", "This list of paths, for people", PAGE_TYPE),
    ]


def _openai_paths(endpoints: Endpoints) -> list[Path]:
    chat = [
        _answering(f"{mount}/v1/chat/completions", endpoints.answer, "A chat, by OpenAI", ChatFields)
        for mount in OPENAI_MOUNTS
    ]
    text = [
        _answering(f"{mount}/v1/completions", endpoints.answer, "A text continued, by OpenAI", TextRequestFields)
        for mount in OPENAI_MOUNTS
    ]
    refused = [
        _post(f"{mount}/v1/embeddings", endpoints.embeddings, "Refused: no embeddings here")
        for mount in ("", "/openai", "/mistral")
    ]
    return [*chat, *text, *refused]


def _responses_paths(endpoints: Endpoints, responses: ResponsesEndpoints) -> list[Path]:
    rows = []
    for mount in (*OPENAI_MOUNTS, "/mistral"):
        path = f"{mount}/v1/responses"
        one = f"{path}/{{response}}"
        rows += [
            _answering(path, endpoints.answer, "A response, by OpenAI and Open Responses", ResponsesFields),
            _post(f"{path}/input_tokens", endpoints.count, "The tokens of its prompt", ResponsesFields),
            _get(one, responses.read, "inference", "A kept response"),
            replace(_get(one, responses.delete, "inference", "Forget it"), methods=("DELETE",)),
            _get(f"{one}/input_items", responses.input_items, "inference", "What was said before it"),
            _post(f"{one}/cancel", responses.cancel, "Refused: nothing runs in the background"),
        ]
    return rows


def _anthropic_paths(endpoints: Endpoints) -> list[Path]:
    rows = []
    for mount in ("", "/anthropic", "/api"):
        path = f"{mount}/v1/messages"
        rows += [
            _answering(path, endpoints.answer, "A chat, by Anthropic", MessagesFields),
            _post(f"{path}/count_tokens", endpoints.count, "The tokens of its prompt", MessagesFields),
        ]
    return rows


def _google_paths(endpoints: Endpoints) -> list[Path]:
    rows = []
    for mount in GOOGLE_MOUNTS:
        answering = _answering(f"{mount}/models/{{call:path}}", endpoints.generate, "A chat, by Google", GenerateFields)
        rows.append(replace(answering, verbs=GOOGLE_VERBS))
    return rows


def _mistral_paths(endpoints: Endpoints) -> list[Path]:
    chat = _answering("/mistral/v1/chat/completions", endpoints.answer, "A chat, by Mistral", ChatFields)
    fim = [
        _answering(f"{mount}/v1/fim/completions", endpoints.answer, "Code continued, by Mistral", TextRequestFields)
        for mount in ("", "/mistral")
    ]
    return [chat, *fim]


def _model_paths(endpoints: Endpoints) -> list[Path]:
    lists = [_get(f"{mount}/models", endpoints.models, "inference", "The models served") for mount in MODEL_MOUNTS]
    ones = [_get(f"{mount}/models/{{model:path}}", endpoints.model, "inference", "One model") for mount in MODEL_MOUNTS]
    return [*lists, *ones]


def _batch_paths(batches: BatchEndpoints) -> list[Path]:
    rows = []
    for mount in OPENAI_MOUNTS:
        files, runs = f"{mount}/v1/files", f"{mount}/v1/batches"
        file, run = f"{files}/{{file}}", f"{runs}/{{batch}}"
        upload = replace(_post(files, batches.upload, "Send a file of requests", FileForm), takes="multipart/form-data")
        rows += [
            upload,
            _get(files, batches.files, "batch", "The caller's files"),
            _get(file, batches.file, "batch", "What is known of one"),
            replace(_get(file, batches.delete, "batch", "Remove it"), methods=("DELETE",)),
            _get(f"{file}/content", batches.content, "batch", "Its bytes", BYTES_TYPE),
            _post(runs, batches.create, "Have the requests of a file answered", BatchFields),
            _get(runs, batches.batches, "batch", "The caller's batches"),
            _get(run, batches.batch, "batch", "How far one is"),
            _post(f"{run}/cancel", batches.cancel, "End it with what it has"),
        ]
    return [replace(row, needs="batch") for row in rows]


def _token_paths(tokens: TokenEndpoints) -> list[Path]:
    return [
        _post("/tokenize", tokens.tokenize, "A text's token ids", TokenizeFields),
        _post("/detokenize", tokens.detokenize, "The text of token ids", DetokenizeFields),
    ]


def _get(path: str, handler: Handler, needs: Needs, summary: str, kind: str = "application/json") -> Path:
    return Path(path=path, methods=("GET",), handler=handler, needs=needs, summary=summary, content_types=(kind,))


def _post(path: str, handler: Handler, summary: str, body: type | None = None) -> Path:
    return Path(path=path, methods=("POST",), handler=handler, needs="inference", summary=summary, body=body)


def _answering(path: str, handler: Handler, summary: str, body: type | None = None) -> Path:
    kinds = ("application/json", "text/event-stream")
    return replace(_post(path, handler, summary, body), answers=True, content_types=kinds)


class Routes:
    """The table as Starlette's routes, and which rows a request falls on."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = tuple(paths)
        self.routes = [Route(row.path, row.handler, methods=list(row.methods)) for row in paths]

    def needs(self, scope: Scope) -> Needs:
        """What a key must open for this request; a path that is not served needs some key, before it is a 404."""
        found: Needs = "any"
        for row, route in zip(self.paths, self.routes, strict=True):
            match, _ = route.matches(scope)
            if match is Match.FULL:
                exchange_of(scope).route = row.path
                return row.needs
            if match is Match.PARTIAL:
                exchange_of(scope).route = row.path
        return found

    def allowed(self, scope: Scope) -> list[str]:
        """The methods that the path of a request takes."""
        rows = zip(self.paths, self.routes, strict=True)
        matching = [(row, route) for row, route in rows if route.matches(scope)[0] is not Match.NONE]
        verb = scope["path"].rpartition(":")[2]
        named = [route for row, route in matching if row.path == scope["path"] or verb in row.verbs]
        found = named or [route for row, route in matching if not row.verbs]
        return sorted({method for route in found for method in route.methods or ()})
