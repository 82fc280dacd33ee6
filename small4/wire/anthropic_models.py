"""Anthropic's list of models, and its count of tokens."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from small4.wire.model_entry import ModelEntry


def format_count(num_tokens: int) -> dict[str, Any]:
    """The answer to a request that counts tokens."""
    return {"input_tokens": num_tokens}


def format_models(models: Sequence[ModelEntry]) -> dict[str, Any]:
    """The list of models, all on one page."""
    return {
        "data": [format_model(model) for model in models],
        "has_more": False,
        "first_id": models[0].id if models else None,
        "last_id": models[-1].id if models else None,
    }


def format_model(model: ModelEntry) -> dict[str, Any]:
    """One entry of the list."""
    return {
        "type": "model",
        "id": model.id,
        "display_name": model.name,
        "created_at": datetime.fromtimestamp(model.created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "lifecycle": "active",
        "max_input_tokens": model.context_length,
        "max_tokens": model.max_tokens,
        "capabilities": _capabilities(model),
    }


def _capabilities(model: ModelEntry) -> dict[str, Any]:
    """Every name that Anthropic's clients know, with whether it is supported here."""
    no, thinks = _supported(False), _supported(model.has_reasoning)
    return {
        "batch": no,
        "citations": no,
        "code_execution": no,
        "context_management": no,
        "effort": {**thinks, **dict.fromkeys(("low", "medium", "high", "xhigh", "max"), thinks)},
        "image_input": _supported(model.has_images),
        "pdf_input": no,
        "server_tools": {**no, "code_execution": no, "web_search": no},
        "structured_outputs": _supported(True),
        "thinking": {**thinks, "types": {"adaptive": thinks, "disabled": _supported(True), "enabled": thinks}},
    }


def _supported(is_supported: bool) -> dict[str, Any]:
    return {"supported": is_supported}
