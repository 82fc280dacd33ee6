"""How an answer ends, in Google's words."""

from small4.chat import FinishReason

FINISH_WORDS: dict[FinishReason, str] = {
    "stop": "STOP",
    "tool_calls": "STOP",
    "length": "MAX_TOKENS",
    "context": "MAX_TOKENS",
    "filtered": "SAFETY",
}
FINISH_REASONS: dict[str, FinishReason] = {  # STOP is tool_calls where there was a call
    "STOP": "stop",
    "MAX_TOKENS": "length",
    **dict.fromkeys(("SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "LANGUAGE"), "filtered"),
}
MALFORMED_CALL = "MALFORMED_FUNCTION_CALL"  # its arguments are no JSON object
