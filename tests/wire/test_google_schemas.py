"""Google's schemas and choices of texts as those that constrain an answer."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from small4.chat import JsonSchema
from small4.wire.google_enum import enum_pattern, enum_values
from small4.wire.google_schema import json_schema
from tests.wire.exchanges import TEXTS
from tests.wire.google_exchanges import config, parse


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"type": "STRING", "nullable": True}, {"type": ["string", "null"]}),
        ({"type": "STRING", "nullable": True, "enum": ["a"]}, {"type": ["string", "null"], "enum": ["a", None]}),
        ({"anyOf": [{"type": "INTEGER"}], "nullable": True}, {"anyOf": [{"type": "integer"}, {"type": "null"}]}),
        ({"any_of": [{"type": "NUMBER", "format": "double"}]}, {"anyOf": [{"type": "number"}]}),
        ({"type": "STRING", "format": "date", "minLength": "2"}, {"type": "string", "format": "date", "minLength": 2}),
        ({"type": "ARRAY", "items": {"type": "BOOLEAN"}}, {"type": "array", "items": {"type": "boolean"}}),
        ({"type": "TYPE_UNSPECIFIED", "example": 5, "title": None}, {"examples": [5]}),
        ({"ref": "#/$defs/a", "defs": {"a": {}}}, {"$ref": "#/$defs/a", "$defs": {"a": {}}}),
        ({"type": ["string", "null"], "pattern": "a"}, {"type": ["string", "null"], "pattern": "a"}),
        (
            {"type": "OBJECT", "properties": {"any_of": {"type": "STRING"}, "type": {}}, "propertyOrdering": ["type"]},
            {"type": "object", "properties": {"type": {}, "any_of": {"type": "string"}}},
        ),
    ],
)
def test_googles_schema_becomes_json_schema(schema, expected):
    converted = json_schema(schema, "s")
    assert converted == expected
    assert list(converted.get("properties", {})) == list(expected.get("properties", {}))


def test_an_answers_object_has_only_the_properties_that_its_schema_names():
    inner = {"type": "OBJECT", "properties": {"b": {"type": "STRING"}}}
    schema = {"type": "OBJECT", "properties": {"a": inner}, "additionalProperties": True}
    converted = parse(config(responseSchema=schema)).request.response_format
    assert isinstance(converted, JsonSchema)
    assert converted.schema["additionalProperties"] is True
    assert converted.schema["properties"]["a"]["additionalProperties"] is False


@settings(max_examples=40)
@given(values=st.lists(TEXTS, min_size=1, max_size=4))
def test_a_choice_of_texts_is_a_pattern_and_back(values):
    assert enum_values(enum_pattern(values)) == values


@pytest.mark.parametrize("pattern", ["", "a+", "a|", r"\d", "(a|b)"])
def test_other_patterns_are_no_choice_of_texts(pattern):
    assert enum_values(pattern) is None
