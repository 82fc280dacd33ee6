"""Scoring counts what it says it counts."""

import json
from collections.abc import Sequence
from dataclasses import replace

import jsonschema
import pytest
import torch

from small4.answer import Answer
from small4.chat import EFFORTS, ChatRequest, JsonSchema, Message, Usage
from small4.errors import ConfigError, NonFiniteLogitsError
from small4.llm import LLM
from small4.model.attention import FullAttention
from small4.model.config import ModelConfig
from small4.model.transformer import Transformer
from small4.tokenizer.tekken import Tokenizer
from small4.tokenizer.template import render
from small4.train.data import NANO_TEKKEN
from small4.train.evaluate import evaluate, is_valid, request_of, wilson
from small4.train.optim import initialise
from small4.train.presets import preset
from small4.train.suites import (
    FIRST_SUITES,
    WHOLE_SUITES,
    check_suites,
    contamination,
    default_suites,
    held_out_problems,
)
from small4.train.tasks.problem import is_held_out
from small4.train.tasks.schema import fits
from small4.train.tasks.skills import IMAGES, SKILLS


def untrained(**changes: object) -> LLM:
    config = replace(preset("test").model, **changes)  # type: ignore[arg-type]
    model = Transformer(config)
    initialise(model, config.n_layers, seed=0)
    return LLM("untrained", model.requires_grad_(False), Tokenizer.from_file(NANO_TEKKEN))


class Clever:
    """Answers every request of a suite rightly, but for the last one, which it does not finish."""

    config: ModelConfig = preset("test-whole").model

    def __init__(self, suite: str, n: int) -> None:
        self.problems = held_out_problems(suite, n)
        self.requests: list[ChatRequest] = []

    def answer_all(self, requests: Sequence[ChatRequest]) -> list[Answer | Exception]:
        self.requests += requests
        usage = Usage(completion_tokens=10, reasoning_tokens=4)
        answers = [Answer(p.answer, p.thought, p.calls, "stop", usage) for p in self.problems]
        return [*answers[:-1], replace(answers[-1], finish_reason="length")]


def test_an_untrained_model_scores_next_to_nothing() -> None:
    scores = evaluate(untrained(), suites=["sum2"], efforts=["none"], n=3)
    assert [(s.skill, s.effort, s.n) for s in scores] == [("sum2", "none", 3)]
    assert scores[0].correct <= 1
    assert scores[0].low <= scores[0].accuracy <= scores[0].high


def test_ids_that_the_tokenizer_lacks_are_never_drawn() -> None:
    llm = untrained(vocab_size=3100)
    model, tokenizer = llm.model, llm.tokenizer
    (problem,) = held_out_problems("sum2", 1)
    ids = render(tokenizer, ChatRequest(messages=(Message("user", problem.question),))).token_ids
    with torch.no_grad():
        hidden_D = model.hidden(torch.tensor(ids), torch.arange(len(ids)), FullAttention([len(ids)]))[-1]
        model.tok_embeddings.weight[tokenizer.vocab_size] = 100 * hidden_D  # the likeliest, and nobody's
        model.tok_embeddings.weight[tokenizer.special_id("</s>")] = 50 * hidden_D  # the next
    (score,) = evaluate(llm, suites=["sum2"], efforts=["none"], n=1)
    assert (score.unfinished, score.mean_tokens) == (0, 1)


def test_scores_that_are_no_numbers_are_told_by_name() -> None:
    llm = untrained()
    with torch.no_grad():
        llm.model.norm.weight.fill_(float("nan"))
    with pytest.raises(NonFiniteLogitsError):
        evaluate(llm, suites=["sum2"], efforts=["none"], n=2)


@pytest.mark.parametrize("suite", WHOLE_SUITES)
def test_right_answers_count_and_unfinished_ones_do_not(suite: str) -> None:
    clever = Clever(suite, 3)
    for score in evaluate(clever, suites=[suite], efforts=["high"], n=3):
        assert (score.correct, score.unfinished, score.n) == (2, 1, 3)
        assert (score.mean_thinking_tokens, score.mean_answer_tokens, score.mean_tokens) == (4, 6, 10)
        assert score.valid in (None, 3)


def test_a_suite_with_a_schema_is_asked_free_and_held_to_it() -> None:
    clever = Clever("extraction", 2)
    scores = evaluate(clever, suites=["extraction"], efforts=["none"], n=2)
    assert [score.grammar for score in scores] == [False, True]
    forms = [request.response_format for request in clever.requests]
    assert forms == [None, None, *(JsonSchema(p.schema) for p in clever.problems if p.schema is not None)]
    calling = Clever("tool_one", 1)
    evaluate(calling, suites=["tool_one"], efforts=["none"], n=1)
    assert [all(tool.strict for tool in request.tools) for request in calling.requests] == [False, True]


def test_a_budget_is_for_thoughts_alone() -> None:
    clever = Clever("sum2", 1)
    scores = evaluate(clever, suites=["sum2"], n=1, thinking_budget=12)
    assert [(request.effort, request.thinking_budget) for request in clever.requests] == [("none", None), ("high", 12)]
    assert [score.thinking_budget for score in scores] == [None, 12]


def test_json_beside_its_schema_is_not_valid() -> None:
    (problem,) = held_out_problems("extraction", 1)
    right = Answer(problem.answer, "", (), "stop", Usage())
    assert is_valid(problem, right)
    assert not is_valid(problem, replace(right, text="{"))
    assert not is_valid(problem, replace(right, text=json.dumps(json.loads(problem.answer) | {"more": 1})))
    (asking,) = held_out_problems("tool_one", 1)
    wrong = replace(asking.calls[0], arguments="{}")
    assert is_valid(asking, replace(right, tool_calls=asking.calls))
    assert not is_valid(asking, replace(right, tool_calls=(wrong,)))


def test_our_look_at_a_schema_agrees_with_jsonschema() -> None:
    values: list[object] = [None, 1, True, 0.5, "red", "Monday", [], ["a"], [1], {}, {"street": "x", "number": 2}]
    schemas = [
        p.schema["properties"][key]
        for p in held_out_problems("extraction", 30)
        if p.schema
        for key in p.schema["properties"]
    ]
    for schema in [*schemas, {"type": "boolean"}, {"enum": [1, "a"]}]:
        validator = jsonschema.Draft7Validator(schema)
        for value in values:
            assert fits(schema, value) == validator.is_valid(value), (schema, value)


def test_every_request_of_the_whole_examination_is_one_a_server_takes() -> None:
    for suite in WHOLE_SUITES:
        (problem,) = held_out_problems(suite, 1)
        for effort in EFFORTS:
            request = request_of(problem, effort)
            assert request.messages[-1].role in ("user", "tool")
            assert request.sampling.temperature == 0


def test_evaluation_problems_are_held_out_and_the_same_each_time() -> None:
    problems = held_out_problems("sum4", 50)
    assert problems == held_out_problems("sum4", 50)
    assert all(is_held_out(problem.key) for problem in problems)


def test_contamination_is_found_where_there_is_any() -> None:
    clean = contamination(["sum4", "story4", "image_colour"], 20)
    assert (clean.seen, clean.not_held_out, clean.drawn) == (0, (), 600)
    assert 50 <= clean.asked <= 60
    talk = contamination(["talk"], 50)
    assert talk.not_held_out == ("talk",)
    assert talk.seen > 10


def test_an_unknown_suite_is_named_and_a_blind_model_is_not_shown_images() -> None:
    with pytest.raises(ConfigError, match="poetry"):
        check_suites(["poetry"], 1)
    with pytest.raises(ConfigError, match="n is 0"):
        check_suites(["sum2"], 0)
    with pytest.raises(ConfigError, match="image_count show"):
        evaluate(untrained(), suites=["image_count"], n=1)


def test_what_a_checkpoint_is_asked_by_default() -> None:
    assert default_suites(NANO_TEKKEN.parent, has_vision=False, context_length=2048) == (FIRST_SUITES, "")
    suites, note = default_suites(None, has_vision=False, context_length=8192)
    assert suites == tuple(suite for suite in WHOLE_SUITES if suite not in IMAGES)
    assert note.startswith("left out, since this model reads no images: image_colour")
    assert set(WHOLE_SUITES) <= set(SKILLS)


def test_the_wilson_interval_matches_published_values() -> None:
    low, high = wilson(490, 500)
    assert (round(low, 3), round(high, 3)) == (0.964, 0.989)
