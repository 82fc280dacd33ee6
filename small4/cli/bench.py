"""`small4 bench engine`: how fast this machine answers, for one stream and for many at once."""

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from small4.cli import options

if TYPE_CHECKING:
    from small4.engine.engine import Engine

PROMPT_TOKENS = 128
STREAMS = (1, 2, 4, 8, 16, 32)


@dataclass(frozen=True, slots=True)
class Rate:
    """What a number of streams came to; `tokens_per_second` over all of them."""

    streams: int
    prompt_tokens_per_second: float
    tokens_per_second: float
    steps: int
    tokens_per_step: float  # of each stream: over 1 where guesses are right


def bench_command(
    what: Annotated[str, typer.Argument(help="engine: there is nothing else yet.")] = "engine",
    model: Annotated[str, typer.Argument(help="nano, a name that `small4 list` shows, or a path.")] = "nano",
    streams: Annotated[list[int] | None, typer.Option("--streams", help="How many at once; repeatable.")] = None,
    quant: options.Quant = None,
    draft: options.Draft = None,
    seconds: Annotated[float, typer.Option("--seconds", help="Time of decoding for each.")] = 3.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Time the engine on random prompts of 128 tokens; a terminal shows the figures as they settle."""
    from small4.cli.ink import Ink
    from small4.cli.request import parse_quant
    from small4.cli.speaker import load_engine
    from small4.errors import ConfigError

    counts = streams or list(STREAMS)
    if what != "engine":
        raise ConfigError(f"there is no benchmark {what!r}; use: small4 bench engine")
    if min(counts) < 1 or max(counts) > 256 or not 0 < seconds <= 600:
        raise ConfigError("--streams must lie in 1 to 256 and --seconds above 0, up to 600")
    engine, err, rates = load_engine(model, max(counts), parse_quant(quant), draft), Ink(sys.stderr), list[Rate]()
    out = Ink(sys.stdout)
    if not as_json:
        out.line(
            f"{'streams':>7}  {'prompts, tok/s':>14}  {'answers, tok/s':>14}  {'each, tok/s':>11}  {'per step':>8}",
            "dim",
        )
    for count in counts:
        for rate in measure(engine, count, seconds):
            if err.is_terminal and not as_json:
                err.erase_line()
                err.write(_row(rate), "dim")
        err.erase_line()
        rates.append(rate)
        if not as_json:
            out.line(_row(rate))
    if as_json:
        print(json.dumps({"model": model, "cache": str(engine.cache_plan), "rates": [asdict(rate) for rate in rates]}))


def measure(engine: "Engine", num_streams: int, seconds: float) -> Iterator[Rate]:
    """Figures of one number of streams while they settle, the last one over the whole time."""
    from random import Random

    from small4.engine.engine import GenerationRequest

    rng, num_ids = Random(num_streams), engine.num_ids or engine.model.config.vocab_size
    room = min(engine.context_length, engine.cache_plan.num_tokens // num_streams) - PROMPT_TOKENS
    sequences = []
    for _ in range(num_streams):
        prompt = [rng.randrange(num_ids) for _ in range(PROMPT_TOKENS)]
        sequences += engine.submit(GenerationRequest(prompt=prompt, max_tokens=max(1, room)))
    begin = time.perf_counter()
    while any(sequence.num_output == 0 for sequence in sequences):
        failed = [output.error for output in engine.step() if output.error is not None]
        if failed:
            raise failed[0]
    prompt_rate = num_streams * PROMPT_TOKENS / (time.perf_counter() - begin)
    begin, shown, steps, tokens = time.perf_counter(), 0.0, 0, 0
    while (spent := time.perf_counter() - begin) < seconds and engine.num_running:
        tokens += sum(len(output.draws) for output in engine.step())
        steps += 1
        if spent - shown > 0.2:
            shown = spent
            yield _rate(num_streams, prompt_rate, tokens, steps, time.perf_counter() - begin)
    yield _rate(num_streams, prompt_rate, tokens, steps, time.perf_counter() - begin)
    for sequence in sequences:
        engine.abort(sequence)


def _rate(streams: int, prompt_rate: float, tokens: int, steps: int, seconds: float) -> Rate:
    return Rate(streams, prompt_rate, tokens / seconds, steps, tokens / max(1, steps * streams))


def _row(rate: Rate) -> str:
    return (
        f"{rate.streams:>7}  {rate.prompt_tokens_per_second:>14,.0f}  {rate.tokens_per_second:>14,.1f}"
        f"  {rate.tokens_per_second / rate.streams:>11,.1f}  {rate.tokens_per_step:>8.2f}"
    )
