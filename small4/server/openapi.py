"""The OpenAPI document, made from the table of paths and from the very structs that bodies are decoded into."""

import re
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import msgspec

from small4.server.routes import Path

Json = dict[str, Any]

NOTE = (
    "One endpoint in the dialects of OpenAI, Anthropic, Google and Mistral. Unknown fields are ignored and named in "
    "the header x-ignored-fields; errors come in the dialect of their path."
)

_SCHEMES: Json = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "anthropic": {"type": "apiKey", "in": "header", "name": "x-api-key"},
    "google": {"type": "apiKey", "in": "header", "name": "x-goog-api-key"},
    "query": {"type": "apiKey", "in": "query", "name": "key"},
}

_READING = {
    400: "The request is malformed; the message says where",
    401: "No key, or one that opens nothing",
    403: "The key, the host or the origin may not do this",
    404: "No such path or model",
    414: "Path and query are too long",
    415: "The body is compressed",
    431: "Too many or too long headers",
    500: "A fault of the server; the request may be sent again",
}
_ANSWERING = {
    408: "The body did not come in time",
    409: "The same Idempotency-Key is being answered, or its answer was too long to keep",
    413: "The body is too large",
    422: "The Idempotency-Key came with another request before; in Mistral's dialect, a field is wrong",
    429: "Too many requests of this key; Retry-After says when to come again",
    502: "The provider failed",
    503: "No room now; Retry-After says when to come again",
    504: "The provider took too long",
    529: "No room now, in Anthropic's dialect",
}


def document(paths: Sequence[Path], models: Sequence[str]) -> Json:
    """The whole document, with the models that are served for examples."""
    bodies = {row.body for row in paths if row.body is not None}
    ordered = sorted(bodies, key=lambda body: f"{body.__module__}.{body.__qualname__}")
    schemas, components = msgspec.json.schema_components(ordered, ref_template="#/components/schemas/{name}")
    schema_of = dict(zip(ordered, schemas, strict=True))
    listed: dict[str, Json] = {}
    for row in paths:
        for name, verb in _operations(row):
            listed.setdefault(name, {}).update(_methods(row, verb, schema_of))
    _name_models(listed, components, models)
    return {
        "openapi": "3.1.0",
        "info": {"title": "small4", "version": version("small4"), "description": NOTE},
        "paths": listed,
        "components": {"schemas": components, "securitySchemes": _SCHEMES},
    }


def _name_models(paths: dict[str, Json], components: Json, models: Sequence[str]) -> None:
    """Write into the document which names a model may be asked for by."""
    fields = [
        schema["properties"]["model"] for schema in components.values() if "model" in schema.get("properties", {})
    ]
    operations = [operation for methods in paths.values() for operation in methods.values()]
    parameters = [parameter for operation in operations for parameter in operation.get("parameters", ())]
    fields += [parameter["schema"] for parameter in parameters if parameter["name"] in ("model", "call")]
    for field in fields:
        field["examples"] = list(models)


def _operations(row: Path) -> list[tuple[str, str]]:
    """The path as OpenAPI writes it; one for each verb where the last part holds it."""
    name = re.sub(r"\{(\w+)(:\w+)?\}", r"{\1}", row.path)
    return [(f"{name}:{verb}", verb) for verb in row.verbs] or [(name, "")]


def _methods(row: Path, verb: str, schema_of: dict[type, Json]) -> Json:
    return {method.lower(): _operation(row, method, verb, schema_of) for method in row.methods}


def _operation(row: Path, method: str, verb: str, schema_of: dict[type, Json]) -> Json:
    operation: Json = {
        "operationId": re.sub(r"\W+", "_", f"{method.lower()}{row.path}{verb}").strip("_"),
        "summary": row.summary,
        "description": _needs(row),
        "responses": _responses(row),
    }
    if row.needs == "open":
        operation["security"] = []
    else:
        operation["security"] = [{name: []} for name in _SCHEMES]
    parameters = [_path_parameter(name) for name in re.findall(r"\{(\w+)", row.path)]
    parameters += [_header("Idempotency-Key")] if row.answers else []
    if parameters:
        operation["parameters"] = parameters
    if method == "POST":
        schema = schema_of[row.body] if row.body is not None else {"type": "object"}
        operation["requestBody"] = {"required": True, "content": {row.takes: {"schema": schema}}}
    return operation


def _needs(row: Path) -> str:
    words = {"open": "Open to everybody.", "any": "Needs some key, once one exists."}
    return words.get(row.needs, f"Needs a key with the scope {row.needs}, once a key exists.")


def _responses(row: Path) -> Json:
    errors = _READING | (_ANSWERING if "POST" in row.methods else {})
    found = {"200": {"description": "The answer", "content": {kind: {"schema": {}} for kind in row.content_types}}}
    if row.path == "/ready":
        found["503"] = {"description": "Not now", "content": found["200"]["content"]}
    answer = {"application/json": {"schema": {"type": "object"}}}
    return found | {str(status): {"description": text, "content": answer} for status, text in sorted(errors.items())}


def _path_parameter(name: str) -> Json:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string", "pattern": "^[A-Za-z0-9._/-]+$"}}


def _header(name: str) -> Json:
    return {"name": name, "in": "header", "required": False, "schema": {"type": "string", "maxLength": 255}}
