"""Draws docs/images/engine-timeline.png: the steps of a real run of the engine on the nano.

    python -m tools.draw_timeline

One row per sequence, one column per step, as wide as it took. The cache is made small so that one is preempted.
"""

from pathlib import Path
from random import Random

import matplotlib

matplotlib.use("agg")
from matplotlib import pyplot
from matplotlib.patches import Patch

import small4
from small4.engine.config import EngineConfig
from small4.engine.engine import Engine, GenerationRequest, StepRecord
from small4.engine.sequence import Sequence

TARGET = Path(__file__).resolve().parent.parent / "docs" / "images" / "engine-timeline.png"
KINDS = {  # of work in one step
    "prompt, in chunks": "#3b6fb6",
    "one token of the answer": "#e0a030",
    "prompt and answer again, after a preemption": "#b64a3b",
    "waiting": "#e4e6ea",
}


def main() -> None:
    model = small4.load("nano").model
    config = EngineConfig(block_size=16, cache_bytes=50 * 16 * 1024, max_step_tokens=160, max_running=6)
    engine = Engine(model, config, context_length=1024)
    steps: list[StepRecord] = []
    engine.observer = steps.append
    rows = drive(engine, steps)
    draw(rows, steps)
    print(f"{len(steps)} steps, {len(rows)} sequences, {sum(s.num_preemptions for s in rows.values())} preemptions")


def drive(engine: Engine, steps: list[StepRecord]) -> dict[str, Sequence]:
    """A run with something of everything: long prompts, a shared beginning, two answers to one prompt."""
    rng = Random(1)
    text = [rng.randrange(1072, 3072) for _ in range(520)]
    arrivals = [
        (0, "short question", text[400:440], 84, 1),
        (2, "long document", text[:500], 10, 1),
        (6, "chat", text[440:470], 66, 1),
        (8, "same document, other question", [*text[:480], *text[500:520]], 40, 1),
        (13, "two answers", text[300:390], 44, 2),
    ]
    rows: dict[str, Sequence] = {}
    while arrivals or engine.num_running or engine.num_waiting:
        while arrivals and arrivals[0][0] <= len(steps):
            _, name, prompt, max_tokens, count = arrivals.pop(0)
            request = GenerationRequest(prompt=prompt, max_tokens=max_tokens, num_sequences=count)
            for number, sequence in enumerate(engine.submit(request), 1):
                rows[name if count == 1 else f"{name}, no. {number}"] = sequence
        engine.step()
    return rows


def draw(rows: dict[str, Sequence], steps: list[StepRecord]) -> None:
    """The picture."""
    figure, axes = pyplot.subplots(figsize=(11, 3.6), dpi=130)
    start = steps[0].began
    places = {sequence.id: row for row, sequence in enumerate(rows.values())}
    spans: dict[int, tuple[float, float]] = {}
    computed: dict[int, int] = {}  # the most tokens that the cache ever held of a sequence
    bars = []
    for step in steps:
        left, width = (step.began - start) * 1e3, (step.ended - step.began) * 1e3
        for run in step.plan:
            number = run.sequence.id
            again = run.start < computed.get(number, 0)
            is_prompt = run.start < run.sequence.num_prompt and len(run.tokens) > 1
            kind = list(KINDS)[2 if again else 0 if is_prompt else 1]
            bars.append((places[number], left, width, KINDS[kind]))
            computed[number] = max(computed.get(number, 0), run.end)
            spans[number] = (spans.get(number, (left, 0.0))[0], left + width)
    for number, (left, right) in spans.items():
        axes.barh(places[number], right - left, left=left, height=0.62, color=KINDS["waiting"])
    for place, left, width, colour in bars:
        axes.barh(place, width, left=left, height=0.62, color=colour, edgecolor="white", linewidth=0.4)
    for sequence in rows.values():
        note = f"{sequence.num_cached} tokens found in the cache" if sequence.num_cached else ""
        axes.text(spans[sequence.id][1], places[sequence.id], f"  {note}", va="center", fontsize=7, color="#454c55")
    axes.set_yticks(range(len(rows)), list(rows), fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, max(right for _, right in spans.values()) * 1.16)
    axes.set_xlabel("milliseconds; every white line is the end of a step")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    handles = [Patch(color=colour, label=kind) for kind, colour in KINDS.items()]
    figure.legend(handles=handles, loc="upper center", ncols=4, fontsize=8, frameon=False)
    figure.tight_layout(rect=(0, 0, 1, 0.93))
    figure.savefig(TARGET)


if __name__ == "__main__":
    main()
