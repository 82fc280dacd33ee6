"""Model lists in the shape that OpenAI's, Mistral's and OpenRouter's clients all read: each finds its own keys."""

from collections.abc import Sequence
from typing import Any

from small4.wire.model_entry import ModelEntry

_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "frequency_penalty", "presence_penalty", "repetition_penalty")
_REST = ("max_tokens", "max_completion_tokens", "logit_bias", "logprobs", "top_logprobs", "seed", "stop")
_FORMATS = ("response_format", "structured_outputs")
_TOOLS = ("tools", "tool_choice", "parallel_tool_calls")
_REASONING = ("reasoning", "reasoning_effort", "include_reasoning")


def format_models(models: Sequence[ModelEntry]) -> dict[str, Any]:
    return {"object": "list", "data": [format_model(model) for model in models]}


def format_model(model: ModelEntry) -> dict[str, Any]:
    """One model's card."""
    return {
        "id": model.id,
        "object": "model",
        "created": model.created,
        "owned_by": model.owner,
        "name": model.name,
        "description": model.description,
        **_mistral_keys(model),
        **_openrouter_keys(model),
    }


def _mistral_keys(model: ModelEntry) -> dict[str, Any]:
    return {
        "type": "base",
        "aliases": list(model.aliases),
        "max_context_length": model.context_length,
        "deprecation": None,
        "default_model_temperature": model.default_temperature,
        "capabilities": {
            "completion_chat": True,
            "function_calling": model.has_tools,
            "reasoning": model.has_reasoning,
            "completion_fim": False,
            "fine_tuning": False,
            "vision": model.has_images,
            "ocr": False,
            "classification": False,
            "moderation": False,
            "audio": False,
        },
    }


def _openrouter_keys(model: ModelEntry) -> dict[str, Any]:
    parameters = [*_SAMPLING, *_REST, *_FORMATS]
    parameters += [*_TOOLS] if model.has_tools else []
    parameters += [*_REASONING] if model.has_reasoning else []
    inputs = ["text", "image"] if model.has_images else ["text"]
    return {
        "context_length": model.context_length,
        "architecture": {
            "modality": f"{'+'.join(inputs)}->text",
            "input_modalities": inputs,
            "output_modalities": ["text"],
        },
        "top_provider": {
            "context_length": model.context_length,
            "max_completion_tokens": model.max_tokens,
            "is_moderated": False,
        },
        "supported_parameters": parameters,
    }
