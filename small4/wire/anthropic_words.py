"""How an answer ends, in Anthropic's words."""

from small4.chat import FinishReason

STOP_REASONS: dict[FinishReason, str] = {  # `stop` is stop_sequence where a stop string was found
    "stop": "end_turn",
    "length": "max_tokens",
    "context": "model_context_window_exceeded",
    "tool_calls": "tool_use",
    "filtered": "refusal",
}
FINISH_REASONS: dict[str, FinishReason] = {
    "stop_sequence": "stop",
    **{word: reason for reason, word in STOP_REASONS.items()},
}
