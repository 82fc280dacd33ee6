"""What structured output costs: python -m benchmarks.grammar [--schemas 300]

Draws schemas of many features (tests/grammar/schemas.py) and from each an answer, token by token at random under the
mask, with the nano's vocabulary of 3,072 ids and the release's of 131,072. Every answer is parsed and validated by
jsonschema. `mask` is the processor time to fill one row of bits, those of a cold matcher included; its wall time stands
beside it, which a busy machine stretches. `compile` is the wall time of the trial in the helper and after it.
Exits with 1 if an answer is not valid or the 99th percentile of a mask is over 1 ms of processor time.
"""

import argparse
import json
import statistics
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

import small4.nano
from benchmarks.report import print_table, write_results
from small4.chat import JsonSchema
from small4.grammar.compiler import Compiler
from small4.grammar.constraint import Constraint
from small4.grammar.vocabulary import Vocabulary
from small4.tokenizer.tekken import Tokenizer
from small4.tokenizer.truncate import nano_tekken
from tests.grammar.schemas import SchemaSource, draw_answer, text_of

RELEASE_RANKS = 130_072
MAX_MASK_SECONDS = 1e-3


def main() -> int:
    parser = argparse.ArgumentParser(description="Time masks and compilation over random schemas.")
    parser.add_argument("--schemas", type=int, default=300)
    num_schemas = parser.parse_args().schemas
    nano = Tokenizer.from_file(Path(small4.nano.__path__[0]) / "tekken.json")
    release = Tokenizer.from_content(nano_tekken(RELEASE_RANKS), "the release's vocabulary")
    results = [measure(tokenizer, num_schemas) for tokenizer in (nano, release)]
    headers = ["vocabulary", "valid", "masks", "mask p50", "p99", "p99.9", "max ms", "wall p50", "p99 ms"]
    headers += ["compile p50", "p99 ms"]
    print_table(headers, [line(result) for result in results])
    print(write_results("grammar", {"llguidance": version("llguidance"), "vocabularies": results}))
    is_good = all(result["valid"] == num_schemas and result["mask_p99"] <= MAX_MASK_SECONDS for result in results)
    return 0 if is_good else 1


def measure(tokenizer: Tokenizer, num_schemas: int) -> dict[str, Any]:
    """Times in seconds for one vocabulary."""
    start = time.perf_counter()
    vocabulary = Vocabulary.of(tokenizer)
    masks: list[tuple[float, float]] = []
    compiles: list[float] = []
    num_valid = 0
    with Compiler(vocabulary) as compiler:
        compiler.trial.start()
        load_seconds = time.perf_counter() - start
        for seed in range(num_schemas):
            schema = SchemaSource(seed).draw()
            start = time.perf_counter()
            grammar = compiler.compile(Constraint(response=JsonSchema(schema)), thinking="none")
            compiles.append(time.perf_counter() - start)
            answer = text_of(vocabulary, draw_answer(grammar, vocabulary, seed, masks))
            num_valid += Draft202012Validator(schema).is_valid(json.loads(answer))
            print(f"\r{seed + 1} of {num_schemas}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    wall, processor = ([times[clock] for times in masks] for clock in (0, 1))
    return {
        "vocab_size": len(vocabulary.pieces),
        "schemas": num_schemas,
        "valid": num_valid,
        "masks": len(masks),
        "load_seconds": load_seconds,
        "mask_p50": statistics.median(processor),
        "mask_p99": percentile(processor, 0.99),
        "mask_p999": percentile(processor, 0.999),
        "mask_max": max(processor),
        "mask_wall_p50": statistics.median(wall),
        "mask_wall_p99": percentile(wall, 0.99),
        "compile_p50": statistics.median(compiles),
        "compile_p99": percentile(compiles, 0.99),
    }


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def line(result: dict[str, Any]) -> list[str]:
    names = ("mask_p50", "mask_p99", "mask_p999", "mask_max", "mask_wall_p50", "mask_wall_p99")
    milliseconds = [f"{1e3 * result[name]:.3f}" for name in names]
    compile_times = [f"{1e3 * result[name]:.0f}" for name in ("compile_p50", "compile_p99")]
    valid = f"{result['valid']} of {result['schemas']}"
    return [f"{result['vocab_size']}", valid, f"{result['masks']}", *milliseconds, *compile_times]


if __name__ == "__main__":
    sys.exit(main())
