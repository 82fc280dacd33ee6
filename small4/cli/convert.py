"""`small4 convert`: a checkpoint from one format to another, one tensor at a time."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from small4.checkpoint.stored import Checkpoint, Config, Format, Stored
    from small4.cli.ink import Ink


def convert_command(
    source: Annotated[str, typer.Argument(help="nano, a name that `small4 list` shows, or a path.")],
    target: Annotated[Path, typer.Argument(help="Directory to write; for GGUF a FILE.gguf, too.")],
    format: Annotated[
        str,
        typer.Option(
            "--format",
            "-f",
            metavar="FORMAT",
            help="hf-bf16, hf-fp8, hf-f32, native-bf16, native-fp8, native-f32, nvfp4, gguf-bf16 or gguf-q8_0.",
        ),
    ],
) -> None:
    """Write a checkpoint in another format: small4 convert nano nano-native --format native-bf16."""
    from small4.checkpoint.digests import KnownDigests
    from small4.checkpoint.load import compare_digests, open_checkpoint
    from small4.checkpoint.save import COMPANIONS, save_model
    from small4.cli.ink import Ink
    from small4.cli.readable import bytes_text
    from small4.hub.names import locate

    wanted = check_format(format)
    path, target = locate(source), target.expanduser()
    checkpoint = open_checkpoint(path)
    compare_digests(checkpoint, KnownDigests.of_user())  # or the new manifest would vouch for damage
    directory = path if path.is_dir() else path.parent
    companions = {name: directory / name for name in COMPANIONS if (directory / name).is_file()}
    err = Ink(sys.stderr)
    try:
        save_model(Watched(checkpoint, err), target, format=wanted, extra_files=companions)
    finally:
        err.erase_line()
    written = [target] if target.is_file() else [file for file in target.iterdir() if file.is_file()]
    print(f"{target}  ({wanted}, {bytes_text(sum(file.stat().st_size for file in written))})")


def check_format(text: str) -> "Format":
    """A format that can be written."""
    from typing import get_args

    from small4.checkpoint.stored import Format
    from small4.errors import UnsupportedModelError

    for format in get_args(Format):
        if text == format:
            return text  # type: ignore[return-value]
    raise UnsupportedModelError(f"unknown format {text!r}; there are {', '.join(get_args(Format))}")


class Watched:
    """A checkpoint that tells a terminal which parameter is being read."""

    def __init__(self, checkpoint: "Checkpoint", err: "Ink") -> None:
        self.checkpoint, self.err = checkpoint, err
        self.num_read = 0

    @property
    def config(self) -> "Config":
        return self.checkpoint.config

    @property
    def format(self) -> "Format":
        return self.checkpoint.format

    def names(self) -> list[str]:
        return self.checkpoint.names()

    def read(self, name: str) -> "Stored":
        self.num_read += 1
        if self.err.is_terminal:
            self.err.erase_line()
            self.err.write(f"converting {self.num_read} of {len(self.names())}: {name}", "dim")
        return self.checkpoint.read(name)

    def release(self, name: str) -> None:
        self.checkpoint.release(name)
