"""Times the nano's answers with and without guesses: its draft head, lookups in its own text, and the rule over both.

    small4 train draft --out runs/draft
    python -m benchmarks.speculation runs/draft/checkpoint

All contenders answer the same held-out problems with their thoughts, greedily, and have to give the same tokens; they
take turns, so that a neighbour's load falls on all; every figure is a median.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

import torch

import small4
from benchmarks.report import print_table, write_results
from small4.chat import ChatRequest, Message
from small4.engine.config import HEAD_DRAFTS, EngineConfig
from small4.engine.engine import Engine, GenerationRequest
from small4.llm import LLM
from small4.tokenizer.template import render
from small4.train.draft import DRAFT_SUITES
from small4.train.evaluate import MAX_ANSWER_TOKENS
from small4.train.suites import held_out_problems

STREAMS = (1, 8, 32)
NAMES = ("no guesses", "head, always", "head, by the rule", "lookup, always", "lookup, by the rule")


def main() -> int:
    parser = argparse.ArgumentParser(description="Time speculation on the nano.")
    parser.add_argument("head", type=Path)
    parser.add_argument("--problems", type=int, default=12, help="at least; as many as streams, if more")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    llm = small4.load("nano", draft=arguments.head)
    rows, results = [], []
    for streams in STREAMS:
        prompts = questions(llm, max(arguments.problems, streams))
        seconds: dict[str, list[float]] = {name: [] for name in NAMES}
        engines: dict[str, Engine] = {}
        wanted: list[list[int]] = []
        for _ in range(arguments.repeats):
            for name in NAMES:
                engine = engines[name] = make_engine(llm, name, streams)
                began = time.perf_counter()
                answers = answer(engine, prompts)
                seconds[name].append(time.perf_counter() - began)
                wanted = wanted or answers
                if answers != wanted:
                    raise AssertionError(f"{name} changed an answer")
        num_tokens = sum(map(len, wanted))
        for name in NAMES:
            rates = [num_tokens / each for each in seconds[name]]
            result = figures(engines[name], streams, name, statistics.median(rates))
            result["gain"] = statistics.median(
                [plain / own for plain, own in zip(seconds[NAMES[0]], seconds[name], strict=True)]
            )
            results.append(result)
            rows.append(row(result))
            print(*rows[-1], sep="  ", file=sys.stderr, flush=True)
    print_table(["streams", "guesses", "tok/s", "gain", "drafted steps", "tokens per step", "drafts right"], rows)
    settings = {"max_drafts": HEAD_DRAFTS, "problems": arguments.problems, "repeats": arguments.repeats}
    print(f"written to {write_results('speculation', {'settings': settings, 'results': results})}")
    return 0


def questions(llm: LLM, number: int) -> list[list[int]]:
    """Prompts of held-out problems, all suites in turn."""
    each = -(-number // len(DRAFT_SUITES))
    problems = [held_out_problems(suite, each) for suite in DRAFT_SUITES]
    mixed = [problem for group in zip(*problems, strict=True) for problem in group][:number]
    return [
        render(llm.tokenizer, ChatRequest(messages=(Message("user", problem.question),), effort="high")).token_ids
        for problem in mixed
    ]


def make_engine(llm: LLM, name: str, streams: int) -> Engine:
    clock: Callable[[], float] = count().__next__ if "always" in name else time.perf_counter
    drafts = 0 if name == NAMES[0] else HEAD_DRAFTS
    return Engine(
        llm.model,
        EngineConfig(max_running=streams, has_prefix_cache=False, max_draft_tokens=drafts),
        context_length=llm.context_length,
        num_ids=llm.tokenizer.vocab_size,
        draft_head=llm.provider.draft_head if name.startswith("head") else None,
        clock=clock,
    )


def answer(engine: Engine, prompts: list[list[int]]) -> list[list[int]]:
    """What the engine says to all prompts."""
    sequences = [
        engine.submit(GenerationRequest(prompt=prompt, max_tokens=MAX_ANSWER_TOKENS, stop_ids=frozenset({2})))[0]
        for prompt in prompts
    ]
    engine.run_to_end()
    return [sequence.output for sequence in sequences]


def figures(engine: Engine, streams: int, name: str, rate: float) -> dict[str, float | str | None]:
    did = engine.speculation
    has_guessed = did is not None and did.num_verified > 0
    return {
        "streams": streams,
        "guesses": name,
        "tokens_per_second": rate,
        "verified_runs": did.num_verified if did is not None else 0,
        "accepted_length": 1 + did.num_accepted / did.num_verified if has_guessed else None,
        "share_right": did.num_accepted / did.num_drafted if has_guessed else None,
    }


def row(result: dict[str, float | str | None]) -> list[str]:
    length, share = result["accepted_length"], result["share_right"]
    return [
        str(result["streams"]),
        str(result["guesses"]),
        f"{result['tokens_per_second']:,.0f}",
        f"{result['gain']:.2f}x",
        f"{result['verified_runs']:,}",
        "-" if length is None else f"{length:.2f}",
        "-" if share is None else f"{100 * float(share):.0f} %",
    ]


if __name__ == "__main__":
    sys.exit(main())
