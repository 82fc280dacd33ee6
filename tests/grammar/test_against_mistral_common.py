"""Our constraints beside those of mistral-common's grammar factory: the same answers, and each difference by name."""

from typing import Any

import llguidance
import pytest
from mistral_common.guidance.grammar_factory import GrammarFactory
from mistral_common.protocol.instruct.messages import UserMessage
from mistral_common.protocol.instruct.request import ChatCompletionRequest, ResponseFormat
from mistral_common.protocol.instruct.request import JsonSchema as CommonSchema
from mistral_common.protocol.instruct.tool_calls import Function, FunctionName, NamedToolChoice, ToolChoiceEnum
from mistral_common.protocol.instruct.tool_calls import Tool as CommonTool
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

import small4.nano
from small4.chat import ChatRequest, JsonObject, JsonSchema, Message, NamedTool
from small4.grammar.constraint import Constraint, constraint_of
from small4.tokenizer.tekken import Tokenizer
from small4.tokenizer.template import render
from tests.grammar.test_constraints import BAD, CITY, CLOCK, GOOD, STRICT, TWO, WEATHER, Judge, judge  # noqa: F401

TEXT, THOUGHT = "Hello", "[THINK]so[/THINK]"
EMPTY_THOUGHT = "[THINK][/THINK]"
BODIES = [TEXT, GOOD, BAD, TWO, f"{TEXT}{GOOD}", f"{GOOD}{TEXT}", "[TOOL_CALLS]rm[ARGS]{}"]
BODIES += ["", "{}", '{"city": "Rom"}', " [1]"]
ANSWERS = [thought + body for thought in ("", THOUGHT, EMPTY_THOUGHT, "[THINK]", "[/THINK]") for body in BODIES]
REQUESTS: list[dict[str, Any]] = [
    {"tool_choice": choice, "tools": tools, "parallel_tool_calls": parallel}
    for choice in ("auto", "required", "none", NamedTool("get_weather"))
    for tools in ((WEATHER, CLOCK), (STRICT, CLOCK))
    for parallel in (True, False)
]
REQUESTS += [
    {"response_format": form, "tools": tools} for form in (JsonObject(), JsonSchema(CITY)) for tools in ((), (STRICT,))
]


@pytest.fixture(scope="module")
def common() -> MistralTokenizer:
    return MistralTokenizer.from_file(f"{small4.nano.__path__[0]}/tekken.json")


@pytest.fixture(scope="module")
def factory(common: MistralTokenizer) -> GrammarFactory:
    return GrammarFactory(common)


@pytest.mark.parametrize("changes", REQUESTS, ids=range(len(REQUESTS)))
def test_the_same_answers_are_allowed(factory: GrammarFactory, judge: Judge, changes: dict[str, Any]):  # noqa: F811
    request = ChatRequest(**{"messages": (Message("user", "Hi"),), **changes})
    constraint = constraint_of(request) or Constraint(tools=request.tools)
    text = factory.get_grammar_for_chat_request(to_common(request), factory.select_jinja_template())
    assert text is not None
    theirs = llguidance.LLMatcher(factory.llg_tokenizer, llguidance.LLMatcher.grammar_from_lark(text), log_level=0)
    assert not theirs.is_error(), theirs.get_error()
    ours = {answer for answer in ANSWERS if judge.accepts(answer, constraint)}
    differing = ours ^ {answer for answer in ANSWERS if accepts(theirs.deep_copy(), judge.encode(answer))}
    assert [answer for answer in differing if difference(answer, request) is None] == []


def difference(answer: str, request: ChatRequest) -> str | None:
    """Why we decide otherwise than mistral-common about this answer."""
    if EMPTY_THOUGHT in answer:
        return "a thought may be empty, since a budget can close it at once"
    if TEXT in answer and "[TOOL_CALLS]" in answer and (request.tool_choice != "auto" or request.response_format):
        return "no text before a call that must come, or that stands for an answer in a form"
    if "rm[ARGS]" in answer or "get[ARGS]" in answer:
        return "only the tools of the request can be called"
    if "[1]" in answer and isinstance(request.response_format, JsonObject):
        return "a JSON object is an object, not a list"
    return None


def accepts(matcher: llguidance.LLMatcher, token_ids: list[int]) -> bool:
    return matcher.try_consume_tokens(token_ids) == len(token_ids) and matcher.is_accepting()


@pytest.mark.parametrize("changes", REQUESTS, ids=range(len(REQUESTS)))
def test_the_prompt_does_not_tell_of_constraints(common: MistralTokenizer, nano: Tokenizer, changes: dict[str, Any]):
    request = ChatRequest(**{"messages": (Message("user", "Hi"),), **changes})
    assert render(nano, request).token_ids == common.encode_chat_completion(to_common(request)).tokens


def to_common(request: ChatRequest) -> Any:
    tools = [
        CommonTool(
            function=Function(
                name=tool.name, description=tool.description, parameters=tool.parameters, strict=tool.strict
            )
        )
        for tool in request.tools
    ]
    choice: Any = request.tool_choice
    choice = (
        NamedToolChoice(function=FunctionName(name=choice.name))
        if isinstance(choice, NamedTool)
        else ToolChoiceEnum(choice)
    )
    form: Any = ResponseFormat()
    if isinstance(request.response_format, JsonSchema):
        schema = CommonSchema(name="answer", schema=request.response_format.schema, strict=True)
        form = ResponseFormat(type="json_schema", json_schema=schema)
    elif isinstance(request.response_format, JsonObject):
        form = ResponseFormat(type="json_object")
    return ChatCompletionRequest(
        model="small4",
        messages=[UserMessage(content="Hi")],
        tools=tools or None,
        tool_choice=choice,
        parallel_tool_calls=request.parallel_tool_calls,
        response_format=form,
        reasoning_effort="none",
    )
