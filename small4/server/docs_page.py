"""The page at `/docs`: the OpenAPI document to read, without scripts, and asking nothing of any other host."""

import base64
import hashlib
from html import escape
from typing import Any

Json = dict[str, Any]

STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
code { font-family: ui-monospace, monospace; font-size: 0.95em; }
h2 { border-top: 1px solid; padding-top: 1rem; font-size: 1.1rem; overflow-wrap: anywhere; }
table { border-collapse: collapse; }
td, th { border: 1px solid; padding: 0.2rem 0.6rem; text-align: left; vertical-align: top; }
"""

_STYLE_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
POLICY = (
    f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def page(document: Json) -> str:
    """The document as HTML."""
    info = document["info"]
    sections = [
        _section(path, method, operation, document["components"]["schemas"])
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    ]
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(info["title"])}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head><body>'
        f"<h1>{escape(info['title'])} {escape(info['version'])}</h1><p>{escape(info['description'])}</p>"
        f"{''.join(sections)}</body></html>"
    )


def _section(path: str, method: str, operation: Json, schemas: Json) -> str:
    statuses = "".join(
        f"<tr><td>{status}</td><td>{escape(response['description'])}</td></tr>"
        for status, response in operation["responses"].items()
    )
    return (
        f'<section id="{escape(operation["operationId"])}"><h2><code>{method.upper()} {escape(path)}</code></h2>'
        f"<p>{escape(operation['summary'])}. {escape(operation['description'])}</p>{_fields(operation, schemas)}"
        f"<details><summary>Statuses</summary><table>{statuses}</table></details></section>"
    )


def _fields(operation: Json, schemas: Json) -> str:
    """The names that a body may hold."""
    if "requestBody" not in operation:
        return ""
    (content,) = operation["requestBody"]["content"].values()
    schema = content["schema"]
    schema = schemas.get(str(schema.get("$ref", "")).rpartition("/")[2], schema)
    required = set(schema.get("required", ()))
    rows = "".join(
        f"<tr><td><code>{escape(name)}</code></td><td>{'needed' if name in required else ''}</td></tr>"
        for name in schema.get("properties", {})
    )
    return f"<details><summary>Fields</summary><table>{rows}</table></details>" if rows else ""
