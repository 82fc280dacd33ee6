"""`small4 pull`: fetch a checkpoint into the hub cache, with one moving bar over all its files.

To mount it: `app.command("pull")(pull_command)`. Errors of the user's making leave it as `Small4Error`.
"""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from small4.hub.fetch import PullProgress
    from small4.hub.pull import PulledModel

ASK_ABOVE_BYTES = 1_000_000_000


def pull_command(
    model: Annotated[
        str, typer.Argument(help="small4, small4:nvfp4, small4:eagle, nano, or a repository as organisation/name.")
    ] = "small4",
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit; the newest by default.")] = None,
    layout: Annotated[
        Literal["native", "hf"] | None,
        typer.Option(help="Which set of shards, where a repository has both."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be fetched, and stop.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Fetch more than 1 GB without asking.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Fetch a checkpoint into the hub cache; an interrupted pull goes on where it stopped."""
    from rich.console import Console

    from small4.hub.pull import pull

    plan = pull(model, revision=revision, layout=layout, dry_run=True)
    if dry_run or plan.bytes_fetched == 0:
        if not dry_run:
            plan = pull(model, revision=revision, layout=layout)
        _print_outcome(plan, is_dry=dry_run, as_json=as_json)
        return
    if plan.bytes_fetched > ASK_ABOVE_BYTES and not yes:
        _ask(plan)
    with _bar(Console(stderr=True)) as show:
        pulled = pull(model, revision=plan.revision if revision else None, layout=layout, on_progress=show)
    _print_outcome(pulled, is_dry=False, as_json=as_json)


def _ask(plan: "PulledModel") -> None:
    from small4.errors import DownloadError
    from small4.hub.pull import readable_bytes

    question = f"Fetch {readable_bytes(plan.bytes_fetched)} in {len(plan.files)} files to {plan.path}?"
    if not sys.stdin.isatty():
        raise DownloadError(f"{question} Nobody is there to answer; give -y to agree")
    if not typer.confirm(question, err=True):
        raise typer.Abort


@contextmanager
def _bar(console: "Console") -> Iterator[Callable[["PullProgress"], None]]:
    """A function that shows a report: as a moving bar in a terminal, as a line per tenth elsewhere."""
    if not console.is_terminal:
        yield _line_printer(console)
        return
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TextColumn("{task.fields[numbers]}"),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=None, numbers="")

        def show(report: "PullProgress") -> None:
            progress.update(
                task,
                description=report.phase,
                total=max(report.bytes_total, 1),
                completed=report.bytes_done if report.bytes_total else 1,
                numbers=progress_numbers(report),
            )

        yield show


def _line_printer(console: "Console") -> Callable[["PullProgress"], None]:
    told: set[tuple[str, int]] = set()

    def show(report: "PullProgress") -> None:
        tenth = (report.phase, 10 * report.bytes_done // max(report.bytes_total, 1))
        if tenth not in told:
            told.add(tenth)
            console.print(
                f"{report.phase} {10 * tenth[1]} % {progress_numbers(report)}", highlight=False, soft_wrap=True
            )

    return show


def progress_numbers(report: "PullProgress") -> str:
    """Bytes, rate, time left and files of a report, as text."""
    from small4.hub.pull import readable_bytes

    parts = [f"{readable_bytes(report.bytes_done)} of {readable_bytes(report.bytes_total)}"]
    if report.seconds_left is not None:
        hours, rest = divmod(round(report.seconds_left), 3600)
        minutes, seconds = divmod(rest, 60)
        parts += [f"{readable_bytes(report.bytes_per_second)}/s", f"{hours}:{minutes:02}:{seconds:02} left"]
    return "  ".join([*parts, f"file {min(report.files_done + 1, report.num_files)}/{report.num_files}"])


def _print_outcome(model: "PulledModel", *, is_dry: bool, as_json: bool) -> None:
    from small4.hub.pull import readable_bytes

    if as_json:
        print(json.dumps({**asdict(model), "path": str(model.path), "dry_run": is_dry}))
        return
    fetched, total = readable_bytes(model.bytes_fetched), readable_bytes(model.bytes)
    if is_dry:
        print(f"would fetch {fetched} of {total} to {model.path}")
        for name in model.files:
            print(f"  {name}")
    else:
        if model.is_offline:
            print("the hub could not be reached; this is what the cache holds", file=sys.stderr)
        print(f"{model.path}  ({total}, {fetched} fetched, revision {model.revision})")
