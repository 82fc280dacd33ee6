"""What training resumes from: weights, optimiser, step. Written whole or not at all.

A state is a directory `state-<step>` of safetensors and one JSON that holds the digest of every file. It is filled
under another name, flushed to disk, and renamed as the last act; a directory whose digests do not hold is no state. The
data position is the step itself (`data.training_batch`), so a resumed run repeats an uninterrupted one bit for bit.
"""

import dataclasses
import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from small4.errors import SaveError, TrainingStateError
from small4.model.transformer import Transformer
from small4.train.presets import TrainConfig

KEEP = 2  # whole states that stay on disk


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run has come."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    loss: float | None = None  # cross-entropy, smoothed over steps
    losses: tuple[tuple[int, float], ...] = ()  # (step, smoothed cross-entropy), for the plot


def save_state(
    run: Path, config: TrainConfig, model: Transformer, optimizers: list[torch.optim.Optimizer], progress: Progress
) -> Path:
    """Write `run/state-<step>` and drop states older than the last two."""
    target, partial = run / f"state-{progress.step:07}", run / f".partial-{progress.step:07}"
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        save_file(dict(model.state_dict()), partial / "model.safetensors")
        save_file(_optimizer_tensors(optimizers), partial / "optimizer.safetensors")
        facts = {"config": dataclasses.asdict(config), "progress": dataclasses.asdict(progress)}
        facts["digests"] = {path.name: _digest(path) for path in sorted(partial.iterdir())}
        (partial / "state.json").write_text(json.dumps(facts))
        _flush(partial)
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
        _flush_directory(run)
    except (OSError, SafetensorError) as error:  # the writer wraps a full disk in its own type
        shutil.rmtree(partial, ignore_errors=True)
        raise SaveError(f"cannot save training state in {run}: {error}; earlier states are whole") from error
    for old in sorted(run.glob("state-*"))[:-KEEP]:
        shutil.rmtree(old)
    return target


def load_state(run: Path, config: TrainConfig, model: Transformer, optimizers: list[torch.optim.Optimizer]) -> Progress:
    """Fill model and optimisers from the newest whole state of this very run, and say how far it had come."""
    for path in sorted(run.glob("state-*"), reverse=True):
        facts = _read_facts(path)
        if facts is None:
            continue
        if facts["config"] != json.loads(json.dumps(dataclasses.asdict(config))):
            raise TrainingStateError(
                f"{path} was written with another configuration; name another --out, or the same preset and seed"
            )
        model.load_state_dict(load_file(path / "model.safetensors"))
        _restore_optimizers(optimizers, load_file(path / "optimizer.safetensors"))
        progress = facts["progress"]
        losses = tuple((int(step), float(loss)) for step, loss in progress["losses"])
        return Progress(**(progress | {"losses": losses}))
    raise TrainingStateError(f"no whole training state in {run}; train without --resume in a new or empty directory")


def _read_facts(path: Path) -> dict | None:  # type: ignore[type-arg]
    """The state's JSON if every file holds its digest, else None."""
    try:
        facts = json.loads((path / "state.json").read_text())
        if all(_digest(path / name) == digest for name, digest in facts["digests"].items()):
            return facts  # type: ignore[no-any-return]
    except (OSError, ValueError, KeyError, AttributeError, TypeError, SafetensorError):
        pass
    return None


def _optimizer_tensors(optimizers: list[torch.optim.Optimizer]) -> dict[str, Tensor]:
    """Flat names `<optimizer>.<parameter>.<field>` -> tensors."""
    return {
        f"{i}.{index}.{field}": value.detach().clone()
        for i, optimizer in enumerate(optimizers)
        for index, fields in optimizer.state_dict()["state"].items()
        for field, value in fields.items()
    }


def _restore_optimizers(optimizers: list[torch.optim.Optimizer], tensors: dict[str, Tensor]) -> None:
    for i, optimizer in enumerate(optimizers):
        states: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            which, index, field = name.split(".", 2)
            if int(which) == i:
                states.setdefault(int(index), {})[field] = value
        optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _flush(directory: Path) -> None:
    for path in directory.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    _flush_directory(directory)


def _flush_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
