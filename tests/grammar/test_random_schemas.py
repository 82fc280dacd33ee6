"""Answers drawn at random under the mask are JSON that the schema accepts, whatever the schema."""

import json

import numpy as np
import pytest
from jsonschema import Draft202012Validator

from small4.chat import JsonSchema
from small4.grammar.compiler import Compiler
from small4.grammar.constraint import Constraint
from small4.grammar.vocabulary import Vocabulary
from tests.grammar.schemas import FEATURES, SchemaSource, allowed_ids, draw_answer, text_of


@pytest.mark.parametrize("seeds", [range(40), pytest.param(range(40, 300), marks=pytest.mark.slow)])
def test_random_answers_satisfy_their_schema(compiler: Compiler, vocabulary: Vocabulary, seeds: range):
    features = set()
    for seed in seeds:
        source = SchemaSource(seed)
        schema = source.draw()
        Draft202012Validator.check_schema(schema)
        grammar = compiler.compile(Constraint(response=JsonSchema(schema)), thinking="none")
        answer = text_of(vocabulary, draw_answer(grammar, vocabulary, seed))
        Draft202012Validator(schema).validate(json.loads(answer))
        features |= source.features
    assert features == FEATURES  # else the test would hold for less than it tells


def test_mask_allows_and_accept_agree(compiler: Compiler, vocabulary: Vocabulary):
    masks = np.zeros((2, vocabulary.num_words), np.int32)
    choose = np.random.default_rng(0)
    for seed in range(6):
        grammar = compiler.compile(Constraint(response=JsonSchema(SchemaSource(seed).draw())), thinking="none")
        answer, matcher = draw_answer(grammar, vocabulary, seed), grammar.matcher()
        for token_id in answer:
            matcher.fill_mask(masks, 1)
            allowed = set(allowed_ids(masks[1]))
            assert token_id in allowed
            others = {int(other) for other in choose.integers(0, len(vocabulary.pieces), 20)} | set(list(allowed)[:5])
            assert {other for other in others if matcher.allows(other)} == others & allowed
            matcher.accept(token_id)
        assert matcher.is_complete
    assert not masks[0].any()  # the other row was left alone


def test_rollback_gives_back_the_masks_of_before(compiler: Compiler, vocabulary: Vocabulary):
    grammar = compiler.compile(Constraint(response=JsonSchema(SchemaSource(0).draw())), thinking="none")
    answer = [*draw_answer(grammar, vocabulary, 0), vocabulary.eos]
    steps = np.zeros((len(answer) + 1, vocabulary.num_words), np.int32)
    matcher = grammar.matcher()
    for row, token_id in enumerate(answer):
        matcher.fill_mask(steps, row)
        matcher.accept(token_id)
    matcher.fill_mask(steps, len(answer))
    again = np.zeros((1, vocabulary.num_words), np.int32)
    choose = np.random.default_rng(1)
    for _ in range(50):
        back = int(choose.integers(0, matcher.num_accepted + 1))
        matcher.rollback(back)
        matcher.fill_mask(again, 0)
        assert (again[0] == steps[matcher.num_accepted]).all()
        for token_id in answer[matcher.num_accepted :][: int(choose.integers(0, len(answer)))]:
            matcher.accept(token_id)
