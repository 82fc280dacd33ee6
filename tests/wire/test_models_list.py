"""The list of models that most clients read, Codex among them."""

from small4.wire.model_entry import ModelEntry
from small4.wire.models_list import CODEX_INSTRUCTIONS, format_models

SMALL = ModelEntry(
    id="mistral-small-4",
    name="Mistral Small 4",
    created=1763600000,
    owner="local",
    context_length=262144,
    max_tokens=262144,
    aliases=("mistral-small-2603",),
    default_temperature=0.1,
)
PLAIN = ModelEntry(
    id="nano", name="Nano", created=0, owner="local", context_length=512, max_tokens=512,
    has_images=False, has_tools=False, has_reasoning=False,
)  # fmt: skip
# what Codex's decoder has no default for
REQUIRED = {
    "slug", "display_name", "supported_reasoning_levels", "shell_type", "visibility", "supported_in_api", "priority",
    "base_instructions", "supports_reasoning_summaries", "support_verbosity", "truncation_policy",
    "supports_parallel_tool_calls", "experimental_supported_tools",
}  # fmt: skip


def test_one_list_holds_what_every_client_looks_for():
    listed = format_models([SMALL])
    card = listed["data"][0]
    assert (listed["object"], card["id"], card["object"], card["created"]) == (
        "list", "mistral-small-4", "model", 1763600000
    )  # fmt: skip
    assert card["aliases"] == ["mistral-small-2603"]
    assert card["max_context_length"] == card["context_length"] == 262144
    assert card["capabilities"]["vision"]
    assert listed["models"][0]["slug"] == "mistral-small-4"


def test_codex_finds_every_field_that_it_needs():
    entries = format_models([SMALL, PLAIN])["models"]
    assert all(entry.keys() >= REQUIRED for entry in entries)
    assert [entry["priority"] for entry in entries] == [0, 1]
    assert all(entry["base_instructions"] == CODEX_INSTRUCTIONS for entry in entries)
    assert (entries[0]["context_window"], entries[0]["input_modalities"]) == (262144, ["text", "image"])
    assert [level["effort"] for level in entries[0]["supported_reasoning_levels"]] == ["none", "high"]


def test_a_model_is_not_said_to_do_what_it_cannot():
    entry = format_models([PLAIN])["models"][0]
    assert (entry["supported_reasoning_levels"], entry["default_reasoning_level"]) == ([], None)
    assert not entry["supports_parallel_tool_calls"]
    assert not entry["supports_reasoning_summaries"]
    assert entry["input_modalities"] == ["text"]
