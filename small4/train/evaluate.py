"""How good a nano is: exact answers on held-out problems, asked through the real chat template, by skill and effort."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from small4.chat import ChatRequest, Effort, Message
from small4.engine.config import EngineConfig
from small4.engine.engine import Engine, GenerationRequest
from small4.errors import ConfigError
from small4.model.transformer import Transformer
from small4.tokenizer.tekken import Tokenizer
from small4.tokenizer.template import render
from small4.train.data import sample_problem
from small4.train.tasks.problem import Problem
from small4.train.tasks.skills import SKILLS

SUITES = ("sum2", "sum3", "sum4", "sum5", "sum6", "chain2", "chain3", "chain4", "product2x1", "product2x2", "talk")
MAX_ANSWER_TOKENS = 320  # a six-operand thought takes 215
BATCH = 250  # sequences decoded side by side


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
    unfinished: int  # ran into the token limit
    low: float  # 95 % Wilson interval of the accuracy
    high: float

    @property
    def accuracy(self) -> float:
        return self.correct / self.n


def evaluate(
    model: Transformer,
    tokenizer: Tokenizer,
    *,
    suites: Sequence[str] = SUITES,
    efforts: Sequence[Effort] = ("none", "high"),
    n: int = 500,
    context_length: int,
    on_score: Callable[[Score], None] = lambda score: None,
) -> list[Score]:
    """Ask `n` held-out problems of every suite at every effort, greedily; the same problems on every call."""
    check_suites(suites, n)
    config = EngineConfig(max_running=BATCH, max_waiting=n)
    engine = Engine(model, config, context_length=context_length, num_ids=tokenizer.vocab_size)
    scores = []
    for suite in suites:
        problems = held_out_problems(suite, n)
        for effort in efforts:
            scores.append(score(engine, tokenizer, problems, suite, effort))
            on_score(scores[-1])
    return scores


def check_suites(suites: Sequence[str], n: int) -> None:
    """Refuse what cannot be asked; a training calls this first, since its evaluation comes an hour later."""
    unknown = [suite for suite in suites if suite not in SKILLS]
    if unknown:
        raise ConfigError(f"unknown suite {', '.join(map(repr, unknown))}; there are {', '.join(SUITES)}")
    if n < 1:
        raise ConfigError(f"n is {n}; ask at least 1 problem")


def held_out_problems(suite: str, n: int) -> list[Problem]:
    """The evaluation problems of one suite; none of them can be in a training text."""
    rng = Random(f"evaluation {suite}")
    return [sample_problem({suite: 1.0}, rng, held_out=True) for _ in range(n)]


def score(engine: Engine, tokenizer: Tokenizer, problems: Sequence[Problem], suite: str, effort: Effort) -> Score:
    """Ask the problems and count the exact answers."""
    close_id, end_id = tokenizer.special_id("[/THINK]"), tokenizer.special_id("</s>")
    sequences = []
    for problem in problems:
        prompt = render(tokenizer, ChatRequest(messages=(Message("user", problem.question),), effort=effort)).token_ids
        request = GenerationRequest(prompt=prompt, max_tokens=MAX_ANSWER_TOKENS, stop_ids=frozenset({end_id}))
        sequences += engine.submit(request)
    engine.run_to_end()
    for sequence in sequences:
        if sequence.error is not None:
            raise sequence.error
    outputs = [sequence.output for sequence in sequences]
    thinking = [output.index(close_id) + 1 if close_id in output else 0 for output in outputs]
    correct = sum(
        output[-1] == end_id and problem.accepts(tokenizer.decode(output[begin:-1]))
        for problem, output, begin in zip(problems, outputs, thinking, strict=True)
    )
    low, high = wilson(correct, len(problems))
    return Score(
        skill=suite,
        effort=effort,
        n=len(problems),
        correct=correct,
        distinct=len({problem.key for problem in problems}),
        mean_tokens=sum(map(len, outputs)) / len(outputs),
        mean_thinking_tokens=sum(thinking) / len(outputs),
        unfinished=sum(output[-1] != end_id for output in outputs),
        low=low,
        high=high,
    )


def wilson(correct: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """Interval that holds the true accuracy 19 times in 20 (Wilson 1927)."""
    p, spread = correct / n, z * z / n
    centre = p + spread / 2
    half = z * math.sqrt(p * (1 - p) / n + spread / (4 * n))
    return (centre - half) / (1 + spread), (centre + half) / (1 + spread)
