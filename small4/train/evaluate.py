"""How good a nano is: exact answers on held-out problems, asked as a user asks, by skill and effort.

Everything goes through the chat requests that a server answers too: template, engine, grammar, and the parser of
thoughts and calls. Problems of a suite are asked side by side.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from small4.answer import Answer
from small4.chat import EFFORTS, ChatRequest, Effort, JsonSchema, Tool
from small4.engine.config import EngineConfig
from small4.errors import ConfigError
from small4.model.config import ModelConfig
from small4.train.suites import FIRST_SUITES, check_suites, held_out_problems
from small4.train.tasks.problem import Problem
from small4.train.tasks.schema import fits
from small4.train.tasks.skills import EXTRACTION, IMAGES, TOOLS

MAX_ANSWER_TOKENS = 640  # the thought of a story of six operations takes 400
QUICK_N = 20
BATCH = 250  # sequences decoded side by side
ENGINE = EngineConfig(max_running=BATCH, max_waiting=1024)

FINISHED = ("stop", "tool_calls")
WITH_GRAMMAR = frozenset(EXTRACTION) | frozenset(TOOLS) - {"tool_none", "tool_result"}


class Examinee(Protocol):
    """Whoever is asked; `small4.LLM` is one."""

    @property
    def config(self) -> ModelConfig: ...

    def answer_all(self, requests: Sequence[ChatRequest]) -> list[Answer | Exception]: ...


@dataclass(frozen=True, slots=True)
class Score:
    """One skill at one effort."""

    skill: str
    effort: Effort
    n: int
    correct: int
    distinct: int  # different problems among the n; small skills repeat in other words
    mean_tokens: float  # thought and answer
    mean_thinking_tokens: float
    mean_answer_tokens: float
    unfinished: int  # ran into the token limit
    low: float  # 95 % Wilson interval of the accuracy
    high: float
    grammar: bool = False  # answers held to their schema while they were written
    valid: int | None = None  # answers that their schema accepts, where there is one
    thinking_budget: int | None = None  # tokens after which thoughts were closed

    @property
    def accuracy(self) -> float:
        return self.correct / self.n


def evaluate(
    examinee: Examinee,
    *,
    suites: Sequence[str] = FIRST_SUITES,
    efforts: Sequence[Effort] = EFFORTS,
    n: int = 500,
    thinking_budget: int | None = None,
    on_score: Callable[[Score], None] = lambda score: None,
) -> list[Score]:
    """Ask `n` held-out problems of every suite at every effort, greedily; the same problems on every call.

    Suites whose answers have a schema are asked twice: free, and held to it.
    """
    check_suites(suites, n)
    blind = [suite for suite in suites if suite in IMAGES and examinee.config.vision is None]
    if blind:
        raise ConfigError(f"this model reads no images, which {', '.join(blind)} show; leave those suites out")
    scores = []
    for suite in suites:
        problems = held_out_problems(suite, n)
        for effort in efforts:
            for grammar in (False, True) if suite in WITH_GRAMMAR else (False,):
                scores.append(score(examinee, problems, suite, effort, grammar, thinking_budget))
                on_score(scores[-1])
    return scores


def score(
    examinee: Examinee,
    problems: Sequence[Problem],
    suite: str,
    effort: Effort,
    grammar: bool = False,
    thinking_budget: int | None = None,
) -> Score:
    """Ask the problems and count the exact answers."""
    budget = thinking_budget if effort == "high" else None
    answers = []
    for answer in examinee.answer_all([request_of(problem, effort, grammar, budget) for problem in problems]):
        if isinstance(answer, Exception):
            raise answer
        answers.append(answer)
    n = len(problems)
    finished = [answer.finish_reason in FINISHED for answer in answers]
    pairs = list(zip(problems, answers, strict=True))
    correct = sum(
        is_finished and problem.accepts(answer.text, answer.tool_calls)
        for is_finished, (problem, answer) in zip(finished, pairs, strict=True)
    )
    tokens = sum(answer.usage.completion_tokens for answer in answers)
    thinking = sum(answer.usage.reasoning_tokens for answer in answers)
    low, high = wilson(correct, n)
    return Score(
        skill=suite,
        effort=effort,
        n=n,
        correct=correct,
        distinct=len({problem.key for problem in problems}),
        mean_tokens=tokens / n,
        mean_thinking_tokens=thinking / n,
        mean_answer_tokens=(tokens - thinking) / n,
        unfinished=n - sum(finished),
        low=low,
        high=high,
        grammar=grammar,
        valid=sum(is_valid(*pair) for pair in pairs) if suite in WITH_GRAMMAR else None,
        thinking_budget=budget,
    )


def request_of(
    problem: Problem, effort: Effort, grammar: bool = False, thinking_budget: int | None = None
) -> ChatRequest:
    """The problem as a client sends it; `grammar` asks for the schema, or for strict tools."""
    tools = problem.tools
    if grammar:
        tools = tuple(Tool(tool.name, tool.description, tool.parameters, strict=True) for tool in tools)
    return ChatRequest(
        messages=problem.asked(thinks=effort == "high"),
        tools=tools,
        effort=effort,
        response_format=JsonSchema(problem.schema) if grammar and problem.schema is not None else None,
        max_tokens=MAX_ANSWER_TOKENS,
        thinking_budget=thinking_budget,
    )


def is_valid(problem: Problem, answer: Answer) -> bool:
    """Whether the answer's JSON, or every call's arguments, is what the schema asks for."""
    schemas = {tool.name: tool.parameters for tool in problem.tools}
    try:
        if problem.schema is not None:
            return fits(problem.schema, json.loads(answer.text))
        return all(
            call.name in schemas and fits(schemas[call.name], json.loads(call.arguments)) for call in answer.tool_calls
        )
    except (ValueError, RecursionError):
        return False


def wilson(correct: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """Interval that holds the true accuracy 19 times in 20 (Wilson 1927)."""
    p, spread = correct / n, z * z / n
    centre = p + spread / 2
    half = z * math.sqrt(p * (1 - p) / n + spread / (4 * n))
    return (centre - half) / (1 + spread), (centre + half) / (1 + spread)
