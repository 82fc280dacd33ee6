"""Sixty-four streams at once for minutes, on the nano: every output equal to the one alone, memory flat, no block lost.

    python -m benchmarks.soak --minutes 10

Sixty-four callers ask without a pause, some for two answers, some leaving early; the cache is small enough that some
are preempted, and drafts are on. Greedy answers are compared with those of an engine that runs one sequence at a time.
"""

import argparse
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from random import Random

import torch

import small4
from benchmarks.report import print_table, write_results
from small4.chat import ChatRequest, Message
from small4.engine.config import EngineConfig
from small4.engine.engine import Engine, GenerationRequest
from small4.engine.worker import Worker
from small4.llm import LLM
from small4.tokenizer.template import render

STREAMS, QUESTIONS, MAX_TOKENS = 64, 400, 160
BLOCKS, BLOCK_SIZE = 250, 16
MAX_GROWTH = 8 * 2**20  # bytes of resident memory, from the first fifth of the time to the end


def main() -> int:
    parser = argparse.ArgumentParser(description="Run 64 streams of the nano and compare every answer.")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    llm = small4.load("nano")
    prompts = questions(llm)
    alone = answers_alone(llm, prompts)
    config = EngineConfig(
        block_size=BLOCK_SIZE, cache_bytes=BLOCKS * BLOCK_SIZE * 1024, max_running=STREAMS, max_draft_tokens=4
    )
    worker = Worker(Engine(llm.model, config, context_length=2048, num_ids=llm.tokenizer.vocab_size))
    seen, memory = soak(worker, prompts, alone, arguments.minutes * 60)
    engine, speculation = worker.engine, worker.engine.speculation
    assert speculation is not None
    wait_until_idle(worker)
    free = engine.scheduler.pool.num_free
    growth = memory[-1] - memory[len(memory) // 5]
    is_good = seen["different"] == 0 and free == engine.cache_plan.num_blocks and growth <= MAX_GROWTH
    rows = [[name, f"{count:,}"] for name, count in sorted(seen.items())]
    rows += [["steps", f"{engine.num_steps:,}"], ["drafts accepted", f"{speculation.num_accepted:,}"]]
    rows += [
        ["blocks free at rest", f"{free} of {engine.cache_plan.num_blocks}"],
        ["memory growth", f"{growth:,} bytes"],
    ]
    print_table(["what", "count"], rows)
    results = {
        "settings": vars(arguments) | {"streams": STREAMS, "blocks": BLOCKS, "block_size": BLOCK_SIZE},
        "seen": dict(seen),
        "steps": engine.num_steps,
        "drafts": [speculation.num_drafted, speculation.num_accepted],
        "blocks_free_at_rest": free,
        "blocks": engine.cache_plan.num_blocks,
        "resident_bytes": memory,
        "growth_bytes": growth,
    }
    print(f"{'good' if is_good else 'BAD'}; written to {write_results('soak', results)}")
    return 0 if is_good else 1


def questions(llm: LLM) -> list[list[int]]:
    """Prompts of sums and chains, with and without thought."""
    rng, prompts = Random(1), []
    for _ in range(QUESTIONS):
        text = rng.choice("+-").join(str(rng.randint(1, 99)) for _ in range(rng.randint(2, 4)))
        effort = rng.choice(["none", "high", "high"])
        request = ChatRequest(messages=(Message("user", text),), effort=effort)  # type: ignore[arg-type]
        prompts.append(render(llm.tokenizer, request).token_ids)
    return prompts


def answers_alone(llm: LLM, prompts: list[list[int]]) -> list[list[int]]:
    """What each prompt is answered by itself."""
    config = EngineConfig(max_running=1, max_step_tokens=2048, has_prefix_cache=False)
    engine = Engine(llm.model, config, context_length=2048, num_ids=llm.tokenizer.vocab_size)
    answers = []
    for prompt in prompts:
        (sequence,) = engine.submit(request_of(prompt))
        engine.run_to_end()
        answers.append(sequence.output)
    return answers


def request_of(prompt: list[int], caller: str = "", count: int = 1) -> GenerationRequest:
    return GenerationRequest(
        prompt=prompt,
        max_tokens=MAX_TOKENS,
        stop_ids=frozenset({2}),
        caller=caller,
        salt=caller.encode(),
        num_sequences=count,
    )


def soak(
    worker: Worker, prompts: list[list[int]], alone: list[list[int]], seconds: float
) -> tuple[Counter[str], list[int]]:
    """Counts of what happened, and resident memory second by second."""
    seen: Counter[str] = Counter(different=0)
    lock, end, memory = threading.Lock(), time.monotonic() + seconds, []

    def ask_on_and_on(number: int) -> None:
        rng = Random(number)
        while time.monotonic() < end:
            found = ask(worker, prompts, alone, rng, f"caller {number % 8}")
            with lock:
                seen.update(found)

    threads = [threading.Thread(target=ask_on_and_on, args=(number,)) for number in range(STREAMS)]
    for thread in threads:
        thread.start()
    while time.monotonic() < end:
        time.sleep(1.0)
        memory.append(resident_bytes())
    for thread in threads:
        thread.join()
    return seen, memory


def ask(worker: Worker, prompts: list[list[int]], alone: list[list[int]], rng: Random, caller: str) -> Counter[str]:
    """One request: read to the end, or left early."""
    number, count = rng.randrange(len(prompts)), rng.choice([1, 1, 1, 1, 2])
    leaves_after = rng.randint(1, 30) if rng.random() < 0.1 else None
    tokens: dict[int, list[int]] = {}
    stream = worker.stream(request_of(prompts[number], caller, count))
    for read, output in enumerate(stream, 1):
        tokens.setdefault(output.sequence.id, []).extend(output.tokens)
        if read == leaves_after:
            stream.close()
            break
    wanted = alone[number]
    different = sum(output != (wanted if leaves_after is None else wanted[: len(output)]) for output in tokens.values())
    return Counter(
        requests=1,
        answers=len(tokens),
        tokens=sum(map(len, tokens.values())),
        different=different,
        left_early=leaves_after is not None,
        preempted=sum(sequence.num_preemptions > 0 for sequence in stream.sequences),
        found_in_cache=sum(sequence.num_cached > 0 for sequence in stream.sequences),
    )


def wait_until_idle(worker: Worker) -> None:
    while worker.engine.num_running or worker.engine.num_waiting:
        time.sleep(0.05)


def resident_bytes() -> int:
    """Memory of this process that lies in RAM."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


if __name__ == "__main__":
    sys.exit(main())
