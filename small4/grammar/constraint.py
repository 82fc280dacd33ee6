"""What a request asks of its answer's form, and that as a grammar over tokens.

    answer    = [THINK] text? [/THINK]  (may be left out)  body  </s>
    body      = text | text? calls | calls | response, by tool choice and response format
    calls     = [TOOL_CALLS] name [ARGS] JSON, once or more

The grammar is llguidance's: a list whose first entry puts control tokens and parts together; the parts that a caller
wrote stand in entries of their own, so that no text of theirs is spliced into ours.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from llguidance import regex_to_lark

from small4.chat import AllowedTools, ChatRequest, JsonObject, JsonSchema, Lark, NamedTool, Regex, ResponseFormat, Tool
from small4.errors import GrammarError
from small4.grammar.limits import GrammarLimits
from small4.grammar.schema import check_pattern, check_schema, check_size, to_llguidance
from small4.grammar.vocabulary import Vocabulary

Thinking = Literal["allowed", "open", "none"]  # before the body; open: the prompt ends inside a thought

# Blanks may stand wherever JSON has them, but not without end: a model can fall into writing nothing else.
_JSON_OPTIONS = {"whitespace_pattern": r"[\x20\x0A\x0D\x09]{1,64}"}
_LEADING_BLANKS = r"/[ \t\r\n]{1,8}/"
_ANY_OBJECT: dict[str, Any] = {"type": "object"}
# A control token can only be meant outside of strings, regular expressions and comments.
_LARK_QUOTED = re.compile(r'"(?:\\.|[^"\\\n])*"i?|//[^\n]*|#[^\n]*|/(?![/*])(?:\\.|\[(?:\\.|[^\]\\\n])*\]|[^/\\\n])+/')
_LARK_TOKEN = re.compile(r"<[^>\n]*>?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraint:
    """The form of an answer. Without a response format the text is free."""

    response: ResponseFormat | None = None
    tools: tuple[Tool, ...] = ()  # that may be called
    must_call: bool = False
    parallel: bool = True  # more than one call

    def key(self) -> str:
        """Equal for constraints that are equal; the names of properties keep their order, which the answer follows."""
        tools = [(tool.name, tool.parameters if tool.strict else None) for tool in self.tools]
        return json.dumps([type(self.response).__name__, _fields(self.response), tools, self.must_call, self.parallel])


def constraint_of(request: ChatRequest) -> Constraint | None:
    """What the request asks of its answer's form; None if it leaves the model free."""
    tools, choice = _callable_tools(request), request.tool_choice
    must_call = choice == "required" or isinstance(choice, NamedTool)
    if isinstance(choice, AllowedTools):
        must_call = choice.is_required
    elif must_call and not tools:
        raise GrammarError("tool_choice is 'required' but the request has no tools; add tools or choose 'auto'")
    is_plain = choice == "auto" and request.parallel_tool_calls and not any(tool.strict for tool in tools)
    if request.response_format is None and (is_plain or (choice == "auto" and not tools)):
        return None
    return Constraint(
        response=request.response_format,
        tools=() if choice == "none" else tools,
        must_call=must_call,
        parallel=request.parallel_tool_calls,
    )


def _callable_tools(request: ChatRequest) -> tuple[Tool, ...]:
    """The tools that the choice leaves, which must all be offered."""
    choice = request.tool_choice
    if isinstance(choice, str):
        return request.tools
    names = (choice.name,) if isinstance(choice, NamedTool) else choice.names
    offered = {tool.name: tool for tool in request.tools}
    for name in names:
        if name not in offered:
            raise GrammarError(
                f"tool_choice names {name[:80]!r}, the request's tools are: {', '.join(offered) or 'none'}; "
                "name one of them"
            )
    if not names:
        raise GrammarError("tool_choice allows no tool; name at least one, or choose 'none'")
    return tuple(tool for tool in request.tools if tool.name in names)


def check_constraint(constraint: Constraint, limits: GrammarLimits) -> None:
    """Raises if a part is too large or holds what cannot be enforced."""
    response = constraint.response
    if isinstance(response, JsonSchema):
        check_schema(response.schema, limits)
    elif isinstance(response, Regex):
        _check_regex(response.pattern, limits)
    elif isinstance(response, Lark):
        _check_lark(response.grammar, limits)
    strict = {tool.name: tool.parameters for tool in constraint.tools if tool.strict}
    check_size({"$defs": strict}, limits, "the sum of the strict tools' schemas")
    for name, parameters in strict.items():
        check_schema(parameters, limits, f"the schema of tool {name[:80]!r}")


def grammar_text(constraint: Constraint, vocabulary: Vocabulary, thinking: Thinking) -> str:
    """The constraint as llguidance reads it: JSON with a list of grammars."""
    parts: dict[str, dict[str, Any]] = {}
    bodies = []
    if constraint.response is not None and not constraint.must_call:
        parts["response"], blanks = _response(constraint.response)
        bodies.append(f"{blanks} @response")
    elif not constraint.must_call:
        bodies.append("text")
    if constraint.tools:
        calls = _calls(constraint, vocabulary, parts)
        is_prose_before = constraint.response is None and not constraint.must_call
        bodies.append(f"text? {calls}" if is_prose_before else calls)
    prefix = {
        "allowed": f"(<[{vocabulary.think}]> text? <[{vocabulary.end_think}]>)? ",
        "open": f"text? <[{vocabulary.end_think}]> ",
        "none": "",
    }[thinking]
    # no_forcing: forced text may be spelled in any tokens; the model chooses as it does elsewhere.
    lines = ['%llguidance {"no_forcing": true}', f"start: {prefix}({' | '.join(bodies)})", r"text: /(.|\n)+/"]
    grammars = [{"lark_grammar": "\n".join(lines)}, *({"name": name, **part} for name, part in parts.items())]
    return json.dumps({"grammars": grammars}, ensure_ascii=False)


def _response(response: ResponseFormat) -> tuple[dict[str, Any], str]:
    """The grammar of the response and what may stand before it."""
    if isinstance(response, JsonObject):
        return _json_grammar(_ANY_OBJECT), f"{_LEADING_BLANKS}?"
    if isinstance(response, JsonSchema):
        return _json_grammar(response.schema), f"{_LEADING_BLANKS}?"
    if isinstance(response, Regex):
        return {"lark_grammar": f"start: /{regex_to_lark(response.pattern, 'dw')}/"}, ""
    return {"lark_grammar": response.grammar}, ""


def _json_grammar(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"json_schema": {**to_llguidance(schema), "x-guidance": _JSON_OPTIONS}}


def _calls(constraint: Constraint, vocabulary: Vocabulary, parts: dict[str, dict[str, Any]]) -> str:
    """The rule of calls; adds the grammars of their arguments to `parts`."""
    calls = []
    for index, tool in enumerate(constraint.tools):
        part = f"arguments_{index}" if tool.strict else "arguments"
        if part not in parts:
            parts[part] = _json_grammar(_arguments_schema(tool))
        name = json.dumps(tool.name, ensure_ascii=False)
        calls.append(f"<[{vocabulary.tool_calls}]> {name} <[{vocabulary.args}]> {_LEADING_BLANKS}? @{part}")
    return f"({' | '.join(calls)}){'+' if constraint.parallel else ''}"


def _arguments_schema(tool: Tool) -> dict[str, Any]:
    if not tool.strict:
        return _ANY_OBJECT
    return {**(tool.parameters or {"properties": {}, "additionalProperties": False}), **_ANY_OBJECT}


def _check_regex(pattern: str, limits: GrammarLimits) -> None:
    check_pattern(pattern, limits, "the regular expression")
    if not pattern:
        raise GrammarError("the regular expression is empty; send a pattern that the whole answer matches")


def _check_lark(grammar: str, limits: GrammarLimits) -> None:
    num_bytes = len(grammar.encode("utf-8", "replace"))
    if num_bytes > limits.max_lark_bytes:
        raise GrammarError(f"the grammar has {num_bytes} bytes, the limit is {limits.max_lark_bytes}; shorten it")
    if found := _LARK_TOKEN.search(_LARK_QUOTED.sub(" ", grammar)):
        raise GrammarError(
            f"the grammar names the control token {found.group()[:40]!r}; an answer's text cannot hold one"
        )


def _fields(response: ResponseFormat | None) -> Any:
    if isinstance(response, JsonSchema):
        return response.schema
    if isinstance(response, Regex):
        return response.pattern
    return response.grammar if isinstance(response, Lark) else None
