"""Tools and the choice among them as the Responses API writes them: flat, unlike in Chat Completions.

Agents send kinds of tools that only one vendor runs. They are skipped and listed as ignored; a choice that forces one
of them is refused, since no answer could honour it.
"""

from collections.abc import Sequence
from typing import Any, Literal

from msgspec import Struct

from small4.chat import AllowedTools, NamedTool, Tool, ToolChoice
from small4.errors import FieldError
from small4.wire.decode import Ignored, convert
from small4.wire.limits import MAX_TOOLS, check_length


def tools_of(entries: Sequence[dict[str, Any]], ignored: Ignored) -> tuple[Tool, ...]:
    """The functions among the tools of a request."""
    tools = []
    for index, entry in enumerate(entries):
        if entry.get("type") != "function":
            ignored.add(f"tools[{index}]")
            continue
        ignored.unknown(entry, _Function, "tools")
        fields = convert(entry, _Function, f"tools[{index}]")
        parameters = {"type": "object", "properties": {}} if fields.parameters is None else fields.parameters
        tools.append(Tool(fields.name, fields.description or "", parameters, strict=bool(fields.strict)))
    check_length(tools, MAX_TOOLS, "tools")
    return tuple(tools)


def tool_choice_of(choice: str | dict[str, Any] | None, tools: Sequence[Tool]) -> ToolChoice:
    """The choice that a request makes among its functions."""
    names = [tool.name for tool in tools]
    if isinstance(choice, dict):
        return _choice_object(choice, names)
    if choice == "required":
        if not names:
            raise FieldError("tool_choice requires a call, but tools has no function; add one", "tool_choice")
        return "required"
    if choice in (None, "auto"):
        return "auto"
    if choice == "none":
        return "none"
    raise FieldError(f"tool_choice: {str(choice)[:40]!r} is unknown; use none, auto or required", "tool_choice")


def tool_echo(tool: Tool) -> dict[str, Any]:
    """A tool as the dialect writes it."""
    return {
        "type": "function",
        "name": tool.name,
        "description": tool.description or None,
        "parameters": tool.parameters,
        "strict": tool.strict,
    }


def choice_echo(choice: ToolChoice) -> str | dict[str, Any]:
    """A choice as the dialect writes it."""
    if isinstance(choice, NamedTool):
        return {"type": "function", "name": choice.name}
    if isinstance(choice, AllowedTools):
        tools = [{"type": "function", "name": name} for name in choice.names]
        return {"type": "allowed_tools", "mode": "required" if choice.is_required else "auto", "tools": tools}
    return choice


def _choice_object(choice: dict[str, Any], names: Sequence[str]) -> ToolChoice:
    kind = choice.get("type")
    if kind == "function":
        return NamedTool(_known(convert(choice, _Named, "tool_choice").name, names, "tool_choice.name"))
    if kind == "allowed_tools":
        return _allowed(convert(choice, _Allowed, "tool_choice"), names)
    raise FieldError(
        f"tool_choice forces the tool {str(kind)[:40]!r}, which is not run here; choose a function", "tool_choice.type"
    )


def _allowed(choice: "_Allowed", names: Sequence[str]) -> ToolChoice:
    check_length(choice.tools, MAX_TOOLS, "tool_choice.tools")
    allowed = tuple(
        _known(convert(entry, _Named, f"tool_choice.tools[{index}]").name, names, f"tool_choice.tools[{index}].name")
        for index, entry in enumerate(choice.tools)
        if entry.get("type") == "function"
    )
    if allowed:
        return AllowedTools(allowed, is_required=choice.mode == "required")
    if choice.mode == "required":
        raise FieldError("tool_choice requires a call, but allows no function; name one", "tool_choice.tools")
    return "none"


def _known(name: str, names: Sequence[str], path: str) -> str:
    if name not in names:
        raise FieldError(f"{path}: tools has no function {name[:80]!r}; add it, or choose another", path)
    return name


class _Function(Struct):
    type: str
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class _Named(Struct):
    type: str
    name: str


class _Allowed(Struct):
    type: str
    tools: list[dict[str, Any]]
    mode: Literal["auto", "required"] = "auto"
