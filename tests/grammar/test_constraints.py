"""Which answers each kind of constraint lets through, token by token."""

import json
from typing import Any

import numpy as np
import pytest

from small4.chat import (
    AllowedTools,
    ChatRequest,
    JsonObject,
    JsonSchema,
    Lark,
    Message,
    NamedTool,
    Regex,
    ResponseFormat,
    Tool,
)
from small4.errors import GrammarError, RequestError
from small4.grammar.compiler import Compiler
from small4.grammar.constraint import Constraint, Thinking, constraint_of
from small4.grammar.vocabulary import Vocabulary
from small4.tokenizer.tekken import Tokenizer
from tests.grammar.schemas import allowed_ids

CITY = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER = Tool("get_weather", "Weather.", CITY)
STRICT = Tool("get_weather", "Weather.", CITY, strict=True)
CLOCK = Tool("get", "Time.", {"type": "object", "properties": {}})
CALL = "[TOOL_CALLS]get_weather[ARGS]"


class Judge:
    """Says of a text whether it is a whole answer; control tokens are written by their names."""

    def __init__(self, compiler: Compiler, tokenizer: Tokenizer) -> None:
        self.compiler = compiler
        self.tokenizer = tokenizer

    def accepts(self, text: str, constraint: Constraint, thinking: Thinking = "allowed") -> bool:
        matcher = self.compiler.compile(constraint, thinking=thinking).matcher()
        for token_id in self.encode(text):
            if not matcher.allows(token_id):
                return False
            matcher.accept(token_id)
        return matcher.is_complete

    def encode(self, text: str) -> list[int]:
        token_ids: list[int] = []
        while text:
            name = next((name for name in CONTROLS if text.startswith(name)), None)
            if name is not None:
                token_ids.append(self.tokenizer.special_id(name))
                text = text[len(name) :]
                continue
            end = min((text.find(name) for name in CONTROLS if name in text), default=len(text))
            token_ids += self.tokenizer.encode_text(text[:end])
            text = text[end:]
        return token_ids


CONTROLS = ("[THINK]", "[/THINK]", "[TOOL_CALLS]", "[ARGS]")


@pytest.fixture(scope="session")
def judge(compiler: Compiler, nano: Tokenizer) -> Judge:
    return Judge(compiler, nano)


@pytest.mark.parametrize(
    ("response", "right", "wrong"),
    [
        (JsonObject(), ["{}", '\n{"a": [1, {"b": null}]}'], ["", "[]", "1", "{", '{"a"}', "{} x", " " * 9 + "{}"]),
        (JsonSchema(CITY), ['{"city": "Köln"}', '{\n  "city": "\\n"\n}'], ["{}", '{"city": 1}', '{"city": "","x": 1}']),
        (JsonSchema({"enum": [1, "a"]}), ["1", '"a"'], ["2", "a", "1a"]),
        (Regex(r"\d{3}-[a-z]+"), ["123-x"], ["12-x", "123-", "x123-x", "123-x "]),
        (Regex(r"^(yes|no)$"), ["yes", "no"], ["yes ", "maybe"]),
        (Regex(r"a/b\n\"c"), ['a/b\n"c'], ["a/b"]),
        (Lark('start: "a" start | "b"'), ["b", "aab"], ["a", "ba"]),
        (Lark('start: WORD (" " WORD)*\nWORD: /[a-z]+/ // words'), ["one two"], ["one  two", "One"]),
    ],
)  # fmt: skip
def test_response_formats(judge: Judge, response: ResponseFormat, right: list[str], wrong: list[str]):
    constraint = Constraint(response=response)
    assert [text for text in right if not judge.accepts(text, constraint)] == []
    assert [text for text in wrong if judge.accepts(text, constraint)] == []
    assert [text for text in right if not judge.accepts(f"[THINK]{{ hm[/THINK]{text}", constraint)] == []
    assert [text for text in right if judge.accepts(f"{CALL}{text}", constraint)] == []


@pytest.mark.parametrize(
    ("thinking", "right", "wrong"),
    [
        ("allowed", ["{}", "[THINK]a[/THINK]{}", "[THINK][/THINK]{}"], ["[THINK]a", "[/THINK]{}", "a[/THINK]{}"]),
        ("open", ["a b[/THINK]{}", "[/THINK]{}"], ["{}", "[THINK]a[/THINK]{}"]),
        ("none", ["{}"], ["[THINK]a[/THINK]{}", "a[/THINK]{}"]),
    ],
)
def test_thinking_may_come_before(judge: Judge, thinking: Thinking, right: list[str], wrong: list[str]):
    constraint = Constraint(response=JsonObject())
    assert [text for text in right if not judge.accepts(text, constraint, thinking)] == []
    assert [text for text in wrong if judge.accepts(text, constraint, thinking)] == []


GOOD, BAD, TWO = f'{CALL}{{"city": "Rom"}}', f'{CALL}{{"town": 1}}', f'{CALL}{{"city": "Rom"}}[TOOL_CALLS]get[ARGS]{{}}'


@pytest.mark.parametrize(
    ("changes", "right", "wrong"),
    [
        ({"tool_choice": "required"}, [GOOD, BAD, TWO, "[THINK]a[/THINK]" + GOOD], ["Hi", f"Hello{GOOD}", GOOD + "x"]),
        ({"tool_choice": "required", "tools": (STRICT, CLOCK)}, [GOOD, TWO], [BAD, f"{CALL}{{}}"]),
        ({"tool_choice": "required", "parallel_tool_calls": False}, [GOOD], [TWO]),
        ({"tool_choice": NamedTool("get_weather")}, [GOOD, BAD], ["[TOOL_CALLS]get[ARGS]{}", TWO, "Hello"]),
        ({"tool_choice": AllowedTools(("get",))}, ["[TOOL_CALLS]get[ARGS]{}", "Hello"], [GOOD]),
        ({"tool_choice": AllowedTools(("get",), True)}, ["[TOOL_CALLS]get[ARGS]{}"], [GOOD, "Hello"]),
        ({"tool_choice": "none"}, ["Hello"], [GOOD, f"Hello{GOOD}"]),
        ({"parallel_tool_calls": False}, ["Hello", GOOD, f"Hello{BAD}"], [TWO, "[TOOL_CALLS]rm[ARGS]{}", f"{CALL}1"]),
        ({"tools": (STRICT, CLOCK)}, ["Hello", GOOD, f"Hello{TWO}"], [BAD, f"{CALL}", "[ARGS]", "[TOOL_CALLS]"]),
        ({"response_format": JsonObject()}, ['{"a": 1}', GOOD, TWO], ["Hello", f"Hello{GOOD}", "[1]"]),
        ({"response_format": JsonObject(), "tool_choice": "none"}, ['{"a": 1}'], ["Hello", GOOD]),
        ({"response_format": JsonObject(), "tool_choice": "required"}, [GOOD], ['{"a": 1}']),
        ({"response_format": Regex("[ab]+")}, ["abba", GOOD], ["c"]),
    ],
)  # fmt: skip
def test_tool_choices(judge: Judge, changes: dict[str, Any], right: list[str], wrong: list[str]):
    constraint = constraint_of(request(**changes))
    assert constraint is not None
    assert [text for text in right if not judge.accepts(text, constraint)] == []
    assert [text for text in wrong if judge.accepts(text, constraint)] == []


def test_a_request_that_asks_nothing_has_no_constraint():
    assert constraint_of(request()) is None
    assert constraint_of(request(tools=())) is None
    assert constraint_of(request(tools=(), parallel_tool_calls=False)) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tool_choice": "required", "tools": ()}, "has no tools"),
        ({"tool_choice": NamedTool("nope")}, "the request's tools are: get_weather, get; name one of them"),
        ({"tool_choice": NamedTool("nope"), "tools": ()}, "the request's tools are: none"),
        ({"tool_choice": AllowedTools(("get", "nope"))}, "tool_choice names 'nope'"),
        ({"tool_choice": AllowedTools(())}, "allows no tool"),
    ],
)
def test_contradictions_are_refused(changes: dict[str, Any], message: str):
    with pytest.raises(RequestError, match=message):
        constraint_of(request(**changes))


def test_a_strict_tool_without_parameters_takes_none(judge: Judge):
    constraint = Constraint(tools=(Tool("now", "Time.", {}, strict=True),), must_call=True)
    assert judge.accepts("[TOOL_CALLS]now[ARGS]{}", constraint)
    assert not judge.accepts('[TOOL_CALLS]now[ARGS]{"a": 1}', constraint)


def test_arguments_are_an_object_even_if_the_schema_forgets_to_say_so(judge: Judge):
    constraint = Constraint(
        tools=(Tool("now", "Time.", {"properties": {"a": {"type": "null"}}}, strict=True),), must_call=True
    )
    assert judge.accepts('[TOOL_CALLS]now[ARGS]{"a": null}', constraint)
    assert not judge.accepts('[TOOL_CALLS]now[ARGS]"a"', constraint)


def test_the_end_comes_where_the_answer_is_complete_and_nothing_after_it(
    compiler: Compiler, vocabulary: Vocabulary, judge: Judge
):
    matcher = compiler.compile(Constraint(response=Regex("ab?"))).matcher()
    masks = np.zeros((1, vocabulary.num_words), np.int32)
    assert not matcher.allows(vocabulary.eos)
    with pytest.raises(GrammarError, match="token 2 after 0 others breaks the constraint"):
        matcher.accept(vocabulary.eos)
    matcher.accept(judge.encode("a")[0])
    assert matcher.is_complete
    matcher.fill_mask(masks, 0)
    assert allowed_ids(masks[0]) == sorted([vocabulary.eos, judge.encode("b")[0]])
    matcher.accept(vocabulary.eos)
    matcher.fill_mask(masks, 0)
    assert allowed_ids(masks[0]) == [vocabulary.eos]
    assert not matcher.allows(judge.encode("b")[0])
    matcher.rollback(2)
    assert matcher.allows(judge.encode("a")[0])
    with pytest.raises(ValueError, match="cannot take back 1 tokens of 0"):
        matcher.rollback(1)


def test_a_refused_token_leaves_the_answer_as_it_was(compiler: Compiler, vocabulary: Vocabulary, judge: Judge):
    matcher = compiler.compile(Constraint(response=JsonObject())).matcher()
    for token_id in judge.encode('{"a"'):
        matcher.accept(token_id)
    with pytest.raises(GrammarError, match="after 4 others breaks the constraint"):
        matcher.accept(vocabulary.args)
    for token_id in judge.encode(": 1}"):
        matcher.accept(token_id)
    assert matcher.is_complete


def test_matchers_of_one_grammar_do_not_know_each_other(compiler: Compiler, judge: Judge):
    grammar = compiler.compile(Constraint(response=Lark('start: "ab"')))
    first, second = grammar.matcher(), grammar.matcher()
    for token_id in judge.encode("ab"):
        first.accept(token_id)
    assert first.is_complete
    assert not second.is_complete


def test_no_text_spells_a_control_token(compiler: Compiler, vocabulary: Vocabulary):
    matcher = compiler.compile(Constraint()).matcher()
    masks = np.zeros((1, vocabulary.num_words), np.int32)
    matcher.fill_mask(masks, 0)
    assert [token_id for token_id in allowed_ids(masks[0]) if token_id < vocabulary.num_special_tokens] == [
        vocabulary.think
    ]


def test_a_mask_row_of_the_wrong_kind_is_refused(compiler: Compiler, vocabulary: Vocabulary):
    matcher = compiler.compile(Constraint()).matcher()
    for masks in (
        np.zeros((1, 5), np.int32),
        np.zeros((1, vocabulary.num_words)),
        np.zeros((vocabulary.num_words, 1), np.int32).T[:, ::2],
    ):
        with pytest.raises(ValueError, match="contiguous int32"):
            matcher.fill_mask(masks, 0)


def test_a_vocabulary_survives_the_pipe(vocabulary: Vocabulary):
    line = vocabulary.to_json()
    assert "\n" not in line
    assert Vocabulary.from_json(line) == vocabulary
    assert json.loads(line)["pieces"][1000] == "\0"


def request(**changes: Any) -> ChatRequest:
    return ChatRequest(**{"messages": (Message("user", "Hi"),), "tools": (WEATHER, CLOCK), **changes})
