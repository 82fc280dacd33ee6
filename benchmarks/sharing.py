"""What shared beginnings save: the time to a first token behind a known prompt, and the memory of several answers.

    python -m benchmarks.sharing

On the miniature of Mistral Small 4 (benchmarks/model.py). Bars: behind a shared prefix of 8,192 tokens the second
request's first token comes at least 10 times as soon; eight answers to one prompt take at most 1.3 times the cache of
one, plus their new tokens.
"""

import argparse
import statistics
import sys
import time

import torch

from benchmarks.peers.mini import engine_model, random_state
from benchmarks.report import print_table, write_results
from small4.engine.config import EngineConfig
from small4.engine.engine import Engine, GenerationRequest
from small4.engine.sequence import Sequence

PREFIX, REST, NEW = 8192, 24, 64  # tokens: shared, own, answered
MIN_SPEEDUP, MAX_MEMORY = 10.0, 1.3


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure what the prefix cache and shared prompts save.")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model = engine_model(arguments.layers, random_state(arguments.layers), "bf16", is_plain=False)
    config = EngineConfig(cache_bytes=2**30, max_step_tokens=2048, max_running=16)
    engine = Engine(model, config, context_length=16384)
    times = [first_tokens(engine, round_) for round_ in range(arguments.repeats)]
    cold, warm = (statistics.median(column) for column in zip(*times, strict=True))
    blocks = {count: peak_blocks(model, config, count) for count in (1, 8)}
    new_blocks = 7 * -(-NEW // config.block_size)  # of the seven other answers
    ratio = (blocks[8] - new_blocks) / blocks[1]
    print_table(
        ["measure", "figure", "bar"],
        [
            ["first token, nothing known, s", f"{cold:.3f}", ""],
            [f"first token behind {PREFIX} known tokens, s", f"{warm:.3f}", ""],
            ["sooner by", f"{cold / warm:.1f}x", f"{MIN_SPEEDUP:.0f}x"],
            ["blocks of one answer, of eight", f"{blocks[1]}, {blocks[8]}", ""],
            ["eight without their new tokens, over one", f"{ratio:.2f}x", f"{MAX_MEMORY}x"],
        ],
    )
    results = {
        "settings": vars(arguments) | {"prefix": PREFIX, "rest": REST, "new": NEW, "block_size": config.block_size},
        "seconds_cold_and_warm": times,
        "sooner_by": cold / warm,
        "peak_blocks": blocks,
        "memory_ratio": ratio,
    }
    print(f"written to {write_results('sharing', results)}")
    return 0 if cold / warm >= MIN_SPEEDUP and ratio <= MAX_MEMORY else 1


def first_tokens(engine: Engine, number: int) -> tuple[float, float]:
    """Seconds to the first token of a prompt never seen, and of one that begins with the same tokens."""
    generator = torch.Generator().manual_seed(number)
    prefix = torch.randint(20, 32768, (PREFIX,), generator=generator).tolist()
    seconds = []
    for _ in range(2):
        rest = torch.randint(20, 32768, (REST,), generator=generator).tolist()
        begin = time.perf_counter()
        (sequence,) = engine.submit(GenerationRequest(prompt=prefix + rest, max_tokens=1))
        engine.run_to_end()
        seconds.append(time.perf_counter() - begin)
        assert sequence.num_output == 1, sequence.error
    return seconds[0], seconds[1]


def peak_blocks(model: torch.nn.Module, config: EngineConfig, count: int) -> int:
    """Most blocks in use while `count` answers to one prompt are written."""
    engine = Engine(model, config, context_length=16384)  # type: ignore[arg-type]
    prompt = torch.randint(20, 32768, (1000,), generator=torch.Generator().manual_seed(5)).tolist()
    sequences: list[Sequence] = engine.submit(GenerationRequest(prompt=prompt, max_tokens=NEW, num_sequences=count))
    most = 0
    while engine.num_running or engine.num_waiting:
        engine.step()
        most = max(most, engine.cache_plan.num_blocks - engine.scheduler.pool.num_free)
    assert all(sequence.num_output == NEW for sequence in sequences)
    return most


if __name__ == "__main__":
    sys.exit(main())
