"""Google's list of models, and its count of tokens."""

from collections.abc import Sequence
from typing import Any

from small4.wire.model_entry import ModelEntry


def format_count(num_tokens: int) -> dict[str, Any]:
    """The answer to a request that counts tokens."""
    return {"totalTokens": num_tokens}


def format_models(models: Sequence[ModelEntry]) -> dict[str, Any]:
    """The list of models, all on one page, so without a token for the next."""
    return {"models": [format_model(model) for model in models]}


def format_model(model: ModelEntry) -> dict[str, Any]:
    """One entry of the list."""
    fields: dict[str, Any] = {
        "name": f"models/{model.id}",
        "baseModelId": model.id,
        "version": "1",
        "displayName": model.name,
        "description": model.description,
        "inputTokenLimit": model.context_length,
        "outputTokenLimit": model.max_tokens,
        "supportedGenerationMethods": ["generateContent", "streamGenerateContent", "countTokens"],
        "thinking": model.has_reasoning,
    }
    if model.default_temperature is not None:
        fields["temperature"] = model.default_temperature
    return fields
