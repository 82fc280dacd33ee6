"""What cannot be enforced is refused before generation, by name; what costs too much ends the helper's fork only."""

import os
import random
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from small4.chat import JsonObject, JsonSchema, Lark, Regex, ResponseFormat, Tool
from small4.errors import GrammarError, RequestError, SchemaError
from small4.grammar.compiler import Compiler
from small4.grammar.constraint import Constraint
from small4.grammar.limits import GrammarLimits
from small4.grammar.matcher import Matcher
from small4.grammar.schema import REFUSED
from small4.grammar.vocabulary import Vocabulary

STRING = {"type": "string"}
# Much to compile; with the limits of `tight` too much.
SLOW_PATTERNS = {"type": "object", "patternProperties": {f"^x{index}_": STRING for index in range(900)}}


@pytest.fixture(scope="module")
def tight(vocabulary: Vocabulary) -> Iterator[Compiler]:
    with Compiler(vocabulary, GrammarLimits(compile_seconds=0.3, max_cached=4)) as compiler:
        yield compiler


@pytest.mark.parametrize("keyword", [*REFUSED, "uniqueItems"])
def test_a_keyword_that_cannot_be_enforced_is_named_with_its_place(compiler: Compiler, keyword: str):
    inner = {"type": "array", "items": {"anyOf": [STRING, {keyword: True}]}}
    schema = {"type": "object", "properties": {"a/b": inner}}
    with pytest.raises(SchemaError, match=r"the schema at #/properties/a~1b/items/anyOf/1 uses the keyword") as caught:
        compiler.compile(Constraint(response=JsonSchema(schema)))
    assert f"'{keyword}'" in str(caught.value)
    assert isinstance(caught.value, RequestError)


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "keyword 'oneOf' with alternatives that may overlap"),
        ({"type": "string", "format": "binary"}, "at # uses the keyword 'format' with 'binary'; enforced are date,"),
        ({"type": "string", "format": 3}, "'format' with '3'"),
        ({"$ref": "http://example.org/a"}, r"keyword '\$ref' with 'http://example.org/a'"),
        ({"$ref": "#/$defs/no"}, "'/\\$defs/no' does not exist"),
        ({"minProperties": 2, "required": ["a"]}, "keyword 'minProperties' with 2"),
        ({"maxProperties": 2, "properties": {"a": {}}}, "keyword 'minProperties' or 'maxProperties' beside optional"),
        ({"patternProperties": {"a": {}, "ab": {}}}, "keyword 'patternProperties' with patterns that may overlap"),
        ({"type": "string", "pattern": "(?=a)"}, "look-around"),
        ({"type": "string", "pattern": r"(a)\1"}, "backreferences are not supported"),
        ({"type": "string", "pattern": "["}, "unclosed character class"),
        ({"type": "integer", "minimum": 3, "maximum": 1}, r"minimum \(3\) is greater than maximum \(1\)"),
        ({"type": "number", "minimum": 3, "exclusiveMaximum": 3}, "is greater than maximum"),
        ({"type": "text"}, "Invalid type: text"),
        ({"properties": []}, "properties must be an object"),
        ({"minLength": "3", "type": "string"}, "'minLength'"),
        ({"enum": []}, "anyOf is empty"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}, "no answer satisfies the constraint"),
        ({"const": float("nan")}, "cannot be written as JSON"),
        ({"const": b"a"}, "cannot be written as JSON"),
        ({"$defs": {"a": {"not": {}}}}, "#/\\$defs/a uses the keyword 'not'"),
    ],
)
def test_schemas_that_are_refused(compiler: Compiler, schema: dict[str, Any], message: str):
    with pytest.raises(SchemaError, match=message):
        compiler.compile(Constraint(response=JsonSchema(schema)))


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (nested(64), "nests deeper than 64 levels"),
        (nested(30_000), "nests deeper than 64 levels"),
        ({"description": "x" * 70_000}, "bytes, the limit is 65536"),
        ({"properties": {f"p{index}": {} for index in range(1001)}}, "has 1001 properties and definitions"),
        ({"enum": list(range(5001))}, "has 5001 enum entries, the limit is 5000"),
        ({"type": "string", "pattern": "a" * 2049}, "at # \\(pattern\\) has 2049 characters, the limit is 2048 bytes"),
        ({"patternProperties": {"a" * 2049: {}}}, "\\(patternProperties\\) has 2049 characters"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_schemas_that_are_too_large(compiler: Compiler, schema: dict[str, Any], message: str):
    with pytest.raises(SchemaError, match=message):
        compiler.compile(Constraint(response=JsonSchema(schema)))


def test_tools_count_together(compiler: Compiler):
    half = {"properties": {f"p{index}": {} for index in range(501)}}
    tools = tuple(Tool(name, "", half, strict=True) for name in ("a", "b"))
    with pytest.raises(SchemaError, match="the sum of the strict tools' schemas has 1004 properties"):
        compiler.compile(Constraint(tools=tools))
    with pytest.raises(SchemaError, match="the schema of tool 'b' at # uses the keyword 'not'"):
        compiler.compile(Constraint(tools=(tools[0], Tool("b", "", {"not": {}}, strict=True))))


@pytest.mark.parametrize(
    ("response", "message"),
    [
        (Regex(""), "regular expression is empty"),
        (Regex("a" * 2049), "2049 characters, the limit is 2048 bytes"),
        (Regex("é" * 1025), "1025 characters, the limit is 2048 bytes"),
        (Regex("("), "unclosed group"),
        (Regex("a(?!b)"), "look-around"),
        (Lark('start: "a" nope'), 'unknown name: "nope"'),
        (Lark('begin: "a"'), "start"),
        (Lark('start: "'), "lexer error"),
        (Lark("start: a\na: a"), "no answer satisfies"),
        (Lark("start: " + "(" * 20_000 + '"a"' + ")" * 20_000), "too deeply nested"),
        (Lark('start: "a"' + " " * 70_000), "bytes, the limit is 65536"),
        (Lark('start: "a" <[9]>'), r"names the control token '<\[9\]>'"),
        (Lark("start: <think>"), "names the control token '<think>'"),
        (Lark('start: "\\"" <[9]> "x"'), "names the control token"),
        (Lark("start: /[/]/ <[9]> /x/"), "names the control token"),
        (Lark("start: @nope"), "unknown grammar"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_patterns_and_grammars_that_are_refused(compiler: Compiler, response: ResponseFormat, message: str):
    with pytest.raises(GrammarError, match=message):
        compiler.compile(Constraint(response=response))


def test_text_that_looks_like_a_control_token_is_only_text(compiler: Compiler):
    for grammar in ('start: "<[9]>"', "start: /<[9]>/ // <[9]>\n", 'start: "a" # <think>\n'):
        compiler.compile(Constraint(response=Lark(grammar)))


def test_what_takes_too_long_is_refused_and_the_helper_goes_on(tight: Compiler):
    tight.trial.start()
    helper = tight.trial.process_id
    with pytest.raises(GrammarError, match=r"takes more than 0.3 s or 512 MiB to compile; simplify it"):
        tight.compile(Constraint(response=JsonSchema(SLOW_PATTERNS)))
    assert tight.trial.process_id == helper
    assert tight.trial.check('{"grammars": [{"lark_grammar": "start: \\"a\\""}]}') is None


def test_what_takes_too_much_memory_is_refused(vocabulary: Vocabulary):
    with (
        Compiler(vocabulary, GrammarLimits(compile_seconds=30, compile_bytes=2**20)) as compiler,
        pytest.raises(GrammarError, match="or 1 MiB to compile"),
    ):
        compiler.compile(Constraint(response=JsonSchema(SLOW_PATTERNS)))


def test_a_helper_that_died_is_replaced(vocabulary: Vocabulary):
    with Compiler(vocabulary) as compiler:
        compiler.trial.start()
        first = compiler.trial.process_id
        assert first is not None
        os.kill(first, 9)
        os.waitid(os.P_PID, first, os.WEXITED | os.WNOWAIT)
        compiler.compile(Constraint(response=JsonObject()))
        assert compiler.trial.process_id not in (None, first)


def test_a_refusal_is_remembered(tight: Compiler):
    constraint = Constraint(response=JsonSchema({"oneOf": [{"type": "integer"}, {"type": "number"}]}))
    for _ in range(2):
        with pytest.raises(SchemaError, match="oneOf"):
            tight.compile(constraint)
    tight.close()
    with pytest.raises(SchemaError, match="oneOf"):
        tight.compile(constraint)
    assert tight.trial.process_id is None  # nobody was asked


def test_the_cache_gives_the_same_grammar_and_drops_the_oldest(tight: Compiler):
    first = tight.compile(Constraint(response=Regex("a")))
    assert tight.compile(Constraint(response=Regex("a"))) is first
    assert tight.compile(Constraint(response=Regex("a")), thinking="none") is not first
    for pattern in "bcde":
        tight.compile(Constraint(response=Regex(pattern)))
    assert tight.compile(Constraint(response=Regex("a"))) is not first


def test_several_threads_may_compile(compiler: Compiler):
    failures = []

    def compile_one(index: int) -> None:
        try:
            compiler.compile(Constraint(response=Regex(f"thread {index % 3}")))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=compile_one, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_an_answer_that_outgrows_its_limits_ends_by_name(vocabulary: Vocabulary):
    with Compiler(vocabulary, GrammarLimits(max_lexer_states=3_000)) as compiler:
        matcher = compiler.compile(Constraint(response=Regex("[abc]*c[abc]{60}"))).matcher()
    letters = [vocabulary.pieces.index(letter) for letter in (b"a", b"b", b"c")]
    with pytest.raises(GrammarError, match=r"the constraint stopped after \d+ tokens \(.*\); simplify it"):
        write(matcher, random.Random(0).choices(letters, k=5_000))


def write(matcher: Matcher, token_ids: list[int]) -> None:
    masks = np.zeros((1, matcher.num_words), np.int32)
    for token_id in token_ids:
        matcher.fill_mask(masks, 0)
        matcher.accept(token_id)
