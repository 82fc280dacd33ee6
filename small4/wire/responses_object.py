"""The response object of the Responses API: every key that Open Responses asks for, null where there is nothing to say.

Numbers that the caller left open are the ones that were used.
"""

from typing import Any

from small4.chat import FinishReason, Usage
from small4.wire.call import Call, Head
from small4.wire.openai_errors import error_fields
from small4.wire.problem import Problem
from small4.wire.responses_request import ResponsesForm, text_format
from small4.wire.responses_tools import choice_echo, tool_echo

INCOMPLETE: dict[FinishReason, str] = {  # why an answer has no end of its own
    "length": "max_output_tokens",
    "context": "max_output_tokens",
    "filtered": "content_filter",
}
BROKEN: frozenset[FinishReason] = frozenset({"aborted", "error"})


def response_object(call: Call, head: Head, status: str, output: list[dict[str, Any]]) -> dict[str, Any]:
    """A response in this state, without usage, error and reason."""
    form, request = call.form, call.request
    assert isinstance(form, ResponsesForm)
    sampling = request.sampling
    return {
        "id": f"resp_{head.id}",
        "object": "response",
        "created_at": head.created,
        "completed_at": None,
        "status": status,
        "incomplete_details": None,
        "error": None,
        "model": head.model,
        "previous_response_id": form.previous_response_id,
        "instructions": form.instructions,
        "output": output,
        "tools": [tool_echo(tool) for tool in request.tools],
        "tool_choice": choice_echo(request.tool_choice),
        "truncation": "disabled",
        "parallel_tool_calls": request.parallel_tool_calls,
        "text": {"format": text_format(call)},
        "top_p": sampling.top_p,
        "temperature": sampling.temperature,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "top_logprobs": sampling.logprobs or 0,
        "reasoning": {"effort": form.effort or request.effort, "summary": None},
        "usage": None,
        "max_output_tokens": request.max_tokens,
        "max_tool_calls": form.max_tool_calls,
        "store": form.is_stored,
        "background": False,
        "service_tier": "default",
        "metadata": dict(call.metadata),
        "safety_identifier": form.safety_identifier,
        "prompt_cache_key": form.prompt_cache_key,
        "user": form.user,
    }


def message_item(item_id: str, status: str, content: list[dict[str, Any]]) -> dict[str, Any]:
    """A message of the assistant."""
    return {"type": "message", "id": item_id, "status": status, "role": "assistant", "content": content}


def text_part(text: str, logprobs: list[dict[str, Any]]) -> dict[str, Any]:
    """The text of a message."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}


def reasoning_part(text: str) -> dict[str, Any]:
    """The text of a thought."""
    return {"type": "reasoning_text", "text": text}


def reasoning_item(item_id: str, status: str, text: str, sealed: str | None) -> dict[str, Any]:
    """A thought; nobody summarises it."""
    content = [reasoning_part(text)] if text else []
    item = {"type": "reasoning", "id": item_id, "status": status, "summary": [], "content": content}
    return item | {"encrypted_content": sealed}


def call_item(item_id: str, status: str, call_id: str, name: str, arguments: str) -> dict[str, Any]:
    """A call of a function; `call_id` is what its result names, `item_id` names this item only."""
    item = {"type": "function_call", "id": item_id, "call_id": call_id, "name": name}
    return item | {"arguments": arguments, "status": status}


def usage_object(usage: Usage) -> dict[str, Any]:
    """What the answer cost."""
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


def response_error(problem: Problem) -> dict[str, Any]:
    """The `error` of a response that failed: here it always has a code."""
    fields = error_fields(problem)
    code = fields["code"] or ("invalid_prompt" if problem.kind == "invalid" else "server_error")
    return {"code": code, "message": problem.message}
