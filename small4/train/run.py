"""From a preset to a finished checkpoint directory: train, score, and write weights, card and plots side by side."""

import dataclasses
import hashlib
import json
import os
import platform
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from small4.checkpoint.save import save_model
from small4.errors import ConfigError
from small4.model.transformer import Transformer
from small4.tokenizer.truncate import dump_tekken
from small4.train.data import training_tekken, training_tokenizer
from small4.train.evaluate import Examinee, Score, evaluate
from small4.train.loop import Report, train
from small4.train.machine import Machine
from small4.train.plot import plot_loss
from small4.train.presets import TrainConfig, preset
from small4.train.state import Progress
from small4.train.suites import RECORD, Contamination, check_suites, contamination, default_suites


def train_nano(
    name: str,
    out: Path,
    load: Callable[[Path], Examinee],
    *,
    seed: int | None = None,
    steps: int | None = None,
    resume: bool = False,
    threads: int | None = None,
    machine: Machine | None = None,
    n: int = 500,
    suites: Sequence[str] | None = None,
    on_report: Callable[[Report], None] = lambda report: None,
    on_score: Callable[[Score], None] = lambda score: None,
) -> Path | None:
    """Train a preset into `out` and return the directory of the finished checkpoint, `out/checkpoint`.

    `load` opens that checkpoint to be examined: in `suites`, by default those of its mix. With n = 0 it is not.

    Training states lie in `out` as well, so that `resume` goes on where a killed run stopped. None where the machine's
    leg ended before the training: then the same call with `resume` goes on. The first leg may say `resume` too.
    """
    check_suites(suites or (), max(n, 1))
    torch.set_num_threads(threads or os.cpu_count() or 1)
    machine, config = machine or Machine(), preset(name)
    config = dataclasses.replace(config, seed=config.seed if seed is None else seed, steps=steps or config.steps)
    has_state = any(out.glob("state-*"))
    if not resume and has_state:
        raise ConfigError(f"{out} holds a training already; pass --resume to go on with it, or name another directory")
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = training_tokenizer(config)
    resume = resume and (has_state or machine.leg_minutes is None)
    model, progress = train(config, tokenizer, out, machine=machine, resume=resume, on_report=on_report)
    if progress.step < config.steps:
        return None
    return finish(config, model, progress, out, load, n=n, suites=suites, on_score=on_score)


def finish(
    config: TrainConfig,
    model: Transformer,
    progress: Progress,
    out: Path,
    load: Callable[[Path], Examinee],
    *,
    n: int,
    suites: Sequence[str] | None,
    on_score: Callable[[Score], None],
) -> Path:
    """Save the weights in the official FP8 layout, score what was saved, and put everything known beside it."""
    target = out / "checkpoint"
    vocabulary = out / "tekken.json"
    vocabulary.write_text(dump_tekken(training_tekken(config)), encoding="utf-8")
    save_model(model.to("cpu", torch.bfloat16), target, format="hf-fp8", extra_files={"tekken.json": vocabulary})
    write_training(config, progress, target)
    plot_loss(progress, progress.tokens / progress.step, target / "loss.png", f"{config.preset}, seed {config.seed}")
    if n > 0:
        if suites is None:
            context, has_vision = config.model.max_position_embeddings, config.model.vision is not None
            suites, _ = default_suites(target, has_vision=has_vision, context_length=context)
        scores = evaluate(load(target), suites=suites, n=n, on_score=on_score)
        write_evaluation(scores, contamination(suites, n), target)
    return target


def write_training(config: TrainConfig, progress: Progress, target: Path) -> None:
    """`training.json`: how the weights beside it were made."""
    weights = sorted(target.glob("*.safetensors"))
    training = {
        "config": dataclasses.asdict(config),
        "steps": progress.step,
        "tokens": progress.tokens,
        "seconds": round(progress.seconds),
        "losses": progress.losses,
        "sha256": {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in weights},
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }
    (target / RECORD).write_text(json.dumps(training, indent=1) + "\n")


def evaluation_record(scores: Sequence[Score], found: Contamination) -> dict[str, object]:
    """What `evaluation.json` holds, and `small4 eval --json` prints."""
    rows = [dataclasses.asdict(score) | {"accuracy": score.accuracy} for score in scores]
    return {"decoding": "greedy", "contamination": dataclasses.asdict(found), "scores": rows}


def write_evaluation(scores: Sequence[Score], found: Contamination, target: Path) -> None:
    """`evaluation.json`: what the weights beside it can do."""
    (target / "evaluation.json").write_text(json.dumps(evaluation_record(scores, found), indent=1) + "\n")
