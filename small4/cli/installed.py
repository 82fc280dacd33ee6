"""`small4 list` and `small4 rm`: the models on this machine."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from small4.hub.cache import InstalledModel


def list_command(
    directories: Annotated[
        list[Path] | None, typer.Argument(help="Directories to look into besides the cache.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the list as JSON.")] = False,
) -> None:
    """List the models here: the shipped nano, the hub cache, and directories that you name."""
    from small4.cli.ink import Ink
    from small4.cli.readable import bytes_text
    from small4.errors import CheckpointNotFoundError
    from small4.hub.cache import list_models

    for directory in directories or ():
        if not directory.is_dir():
            raise CheckpointNotFoundError(f"{directory} is not a directory; give directories that hold checkpoints")
    models = [*_shipped(), *list_models(directories or ())]
    if as_json:
        facts = [
            {
                "name": model.name,
                "path": str(model.path),
                "bytes": model.bytes,
                "format": model.format,
                "modified": model.modified.isoformat(timespec="seconds"),
                "complete": model.is_complete,
            }
            for model in models
        ]
        print(json.dumps(facts))
        return
    rows = [
        (
            model.name,
            bytes_text(model.bytes),
            model.format if model.is_complete else f"{model.format}, incomplete",
            f"{model.modified:%Y-%m-%d}",
            "" if model.name == str(model.path) else str(model.path),
        )
        for model in models
    ]
    Ink(sys.stdout).table(("name", "size", "format", "date", "path"), rows)


def remove_command(
    model: Annotated[str, typer.Argument(help="A name that `small4 list` shows.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete a model from the hub cache, with all its revisions."""
    from small4.cli.readable import bytes_text
    from small4.errors import CheckpointError
    from small4.hub.cache import list_models, remove_model
    from small4.hub.names import NANO

    if model == NANO:
        raise CheckpointError("nano is part of the installation; it goes with: pip uninstall small4")
    found = next((entry for entry in list_models() if entry.name == model), None)
    if found is not None and not yes:
        question = f"Delete {model} ({bytes_text(found.bytes)}, {found.path})?"
        if not sys.stdin.isatty():
            raise CheckpointError(f"{question} Nobody is there to answer; give -y to agree")
        if not typer.confirm(question, err=True):
            raise typer.Abort
    removed = remove_model(model)
    print(f"deleted {removed.name}, {bytes_text(removed.bytes)} are free again")


def _shipped() -> list["InstalledModel"]:
    from datetime import UTC, datetime

    from small4.errors import CheckpointNotFoundError
    from small4.hub.cache import InstalledModel
    from small4.hub.names import NANO, nano_directory

    try:
        path = nano_directory()
    except CheckpointNotFoundError:
        return []
    files = [file for file in path.iterdir() if file.is_file()]
    modified = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    return [InstalledModel(NANO, path, sum(file.stat().st_size for file in files), "hf", modified)]
