"""`GET /v1/models` as most clients read it: cards under `data`, and Codex's entries under `models`.

The other two shapes are their vendors': `anthropic.format_models` and `google.format_models`.
"""

from collections.abc import Sequence
from typing import Any

from small4.wire import model_cards
from small4.wire.model_entry import ModelEntry

# Codex takes an entry's instructions in place of its own, so they have to say what its harness expects.
CODEX_INSTRUCTIONS = """\
You are a coding agent in the user's terminal. You read, change and run the code of their project through tools.

- Look before you change: read the files that matter, and follow the conventions that you find there.
- Make the smallest change that solves the task at its root. Leave unrelated code as it is.
- Check your work by running what the project offers: tests, linters, builds. Report honestly what failed.
- Keep to the sandbox and the approvals that you are told of. Ask before you destroy work or leave the project.
- Go on until the task is done. Then say in a few plain sentences what changed, where, and what is left.
"""

_TOOL_OUTPUT_TOKENS = 10_000  # of one result that Codex keeps
_EFFORTS = (("none", "Answers at once"), ("high", "Thinks before it answers"))


def format_models(models: Sequence[ModelEntry]) -> dict[str, Any]:
    """The list for every client that shows no sign of another dialect."""
    entries = [_codex_entry(model, priority) for priority, model in enumerate(models)]
    return {**model_cards.format_models(models), "models": entries}


def _codex_entry(model: ModelEntry, priority: int) -> dict[str, Any]:
    efforts = _EFFORTS if model.has_reasoning else ()
    return {
        "slug": model.id,
        "display_name": model.name,
        "description": model.description,
        "default_reasoning_level": "high" if model.has_reasoning else None,
        "supported_reasoning_levels": [{"effort": word, "description": text} for word, text in efforts],
        "shell_type": "shell_command",
        "visibility": "list",
        "supported_in_api": True,
        "priority": priority,
        "additional_speed_tiers": [],
        "service_tiers": [],
        "availability_nux": None,
        "upgrade": None,
        "base_instructions": CODEX_INSTRUCTIONS,
        "model_messages": None,
        "supports_reasoning_summaries": model.has_reasoning,  # without it Codex sends no effort
        "default_reasoning_summary": "none",
        "support_verbosity": False,
        "default_verbosity": None,
        "apply_patch_tool_type": None,  # a tool of free text, which is not run here
        "web_search_tool_type": "text",
        "truncation_policy": {"mode": "tokens", "limit": _TOOL_OUTPUT_TOKENS},
        "supports_parallel_tool_calls": model.has_tools,
        "supports_image_detail_original": False,
        "context_window": model.context_length,
        "max_context_window": model.context_length,
        "auto_compact_token_limit": None,
        "effective_context_window_percent": 95,
        "experimental_supported_tools": [],
        "input_modalities": ["text", "image"] if model.has_images else ["text"],
        "supports_search_tool": False,
        "use_responses_lite": False,
    }
