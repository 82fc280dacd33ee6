"""Scoring counts what it says it counts."""

from dataclasses import replace

import pytest
import torch

from small4.chat import ChatRequest, Message
from small4.errors import ConfigError, NonFiniteLogitsError
from small4.model.attention import FullAttention
from small4.model.transformer import Transformer
from small4.tokenizer.tekken import Tokenizer
from small4.tokenizer.template import render
from small4.train.data import NANO_TEKKEN
from small4.train.evaluate import evaluate, held_out_problems, wilson
from small4.train.optim import initialise
from small4.train.presets import preset
from small4.train.tasks.problem import is_held_out


def test_an_untrained_model_scores_next_to_nothing() -> None:
    config = preset("test").model
    model = Transformer(config)
    initialise(model, config.n_layers, seed=0)
    tokenizer = Tokenizer.from_file(NANO_TEKKEN)
    with torch.inference_mode():
        scores = evaluate(model, tokenizer, suites=["sum2"], efforts=["none"], n=3, context_length=2048)
    assert [(s.skill, s.effort, s.n) for s in scores] == [("sum2", "none", 3)]
    assert scores[0].correct <= 1
    assert scores[0].low <= scores[0].accuracy <= scores[0].high


def test_ids_that_the_tokenizer_lacks_are_never_drawn() -> None:
    config = replace(preset("test").model, vocab_size=3100)
    model = Transformer(config)
    initialise(model, config.n_layers, seed=0)
    tokenizer = Tokenizer.from_file(NANO_TEKKEN)
    (problem,) = held_out_problems("sum2", 1)
    ids = render(tokenizer, ChatRequest(messages=(Message("user", problem.question),))).token_ids
    with torch.no_grad():
        hidden_D = model.hidden(torch.tensor(ids), torch.arange(len(ids)), FullAttention([len(ids)]))[-1]
        model.tok_embeddings.weight[tokenizer.vocab_size] = 100 * hidden_D  # the likeliest, and nobody's
        model.tok_embeddings.weight[tokenizer.special_id("</s>")] = 50 * hidden_D  # the next
    (score,) = evaluate(model, tokenizer, suites=["sum2"], efforts=["none"], n=1, context_length=2048)
    assert (score.unfinished, score.mean_tokens) == (0, 1)


def test_scores_that_are_no_numbers_are_told_by_name() -> None:
    config = preset("test").model
    model = Transformer(config)
    initialise(model, config.n_layers, seed=0)
    with torch.no_grad():
        model.norm.weight.fill_(float("nan"))
    with pytest.raises(NonFiniteLogitsError):
        evaluate(model, Tokenizer.from_file(NANO_TEKKEN), suites=["sum2"], efforts=["none"], n=2, context_length=2048)


def test_evaluation_problems_are_held_out_and_the_same_each_time() -> None:
    problems = held_out_problems("sum4", 50)
    assert problems == held_out_problems("sum4", 50)
    assert all(is_held_out(problem.key) for problem in problems)


def test_an_unknown_suite_is_named() -> None:
    model = Transformer(preset("test").model)
    with pytest.raises(ConfigError, match="poetry"):
        evaluate(model, Tokenizer.from_file(NANO_TEKKEN), suites=["poetry"], context_length=2048)


def test_the_wilson_interval_matches_published_values() -> None:
    low, high = wilson(490, 500)
    assert (round(low, 3), round(high, 3)) == (0.964, 0.989)
