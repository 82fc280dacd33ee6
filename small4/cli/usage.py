"""`small4 usage`: what was asked through this machine's gateway, what it used, and what it cost."""

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

if TYPE_CHECKING:
    from datetime import datetime

    from small4.gateway.usage import Filter, Grouping, UsageRow

FORMATS = (".csv", ".json", ".parquet")


def usage_command(
    by: Annotated[str, typer.Option("--by", metavar="WHAT", help="key, app, route or day.")] = "day",
    since: Annotated[
        str, typer.Option("--since", metavar="WHEN", help="A day (2026-11-01), or so long ago: 12h, 7d, 4w; or all.")
    ] = "30d",
    key: Annotated[str | None, typer.Option("--key", metavar="ID", help="Of this key alone.")] = None,
    app: Annotated[str | None, typer.Option("--app", metavar="NAME", help="Of this app alone.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the sums as JSON.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print the sums as CSV.")] = False,
    export: Annotated[
        Path | None,
        typer.Option("--export", metavar="FILE", help="Write every attempt to a .csv, .json or .parquet file."),
    ] = None,
    ledger: Annotated[
        str | None,
        typer.Option("--ledger", metavar="ADDRESS", help="A path or a URL of PostgreSQL; left out: the gateway's."),
    ] = None,
) -> None:
    """Show what was used and what it cost, summed by key, app, route or day (UTC)."""
    from small4.cli.ink import Ink
    from small4.gateway.usage import Filter, UsageRow, read_usage
    from small4.gateway.usage_export import write_csv, write_json
    from small4.settings import load_settings

    address = load_settings({"ledger": ledger}).ledger
    wanted = Filter(since=_moment(since), key=key, app=app)
    if export is not None:
        _export(address, wanted, export)
        return
    rows = read_usage(address, cast("Grouping", by), wanted)  # which checks it
    if as_json:
        write_json(sys.stdout, rows)
    elif as_csv:
        write_csv(sys.stdout, UsageRow, rows)
    elif not rows:
        print(f"nothing was asked since {since}; --since all shows everything")
    else:
        Ink(sys.stdout).table((by, *_HEADER), [_cells(row) for row in [*rows, *_total(rows)]])
        _print_notes(rows)


_HEADER = ("attempts", "failed", "tokens in", "cached", "tokens out", "reasoning", "cost")


def _cells(row: "UsageRow") -> tuple[str, ...]:
    tokens = (row.prompt_tokens, row.cached_tokens, row.completion_tokens, row.reasoning_tokens)
    counts = (f"{count:,}" for count in (row.num_attempts, row.num_failed, *tokens))
    return row.name or "-", *counts, f"${row.cost:,.6f}"


def _total(rows: list["UsageRow"]) -> list["UsageRow"]:
    """The sum of several rows; nothing under a single one."""
    from dataclasses import fields
    from decimal import Decimal

    from small4.gateway.usage import UsageRow

    if len(rows) < 2:
        return []
    sums = {field.name: sum(getattr(row, field.name) for row in rows) for field in fields(UsageRow)[1:]}
    return [UsageRow(name="all", **{**sums, "cost": sum((row.cost for row in rows), Decimal(0))})]


def _print_notes(rows: list["UsageRow"]) -> None:
    """What the sums do not say, to standard error."""
    for count, note in (
        (sum(row.num_unpriced for row in rows), "of unknown cost, which the sums leave out"),
        (sum(row.num_estimated for row in rows), "whose tokens or cost are estimated, since nobody told"),
        (sum(row.num_open for row in rows), "still open"),
    ):
        if count:
            print(f"{count:,} attempts {note}", file=sys.stderr)


def _export(address: str, wanted: "Filter", path: Path) -> None:
    from small4.errors import ConfigError
    from small4.gateway.usage import AttemptRow, read_attempts
    from small4.gateway.usage_export import write_csv, write_json

    if path.suffix not in FORMATS:
        raise ConfigError(f"{path} ends in {path.suffix or 'nothing'}; attempts are exported as {', '.join(FORMATS)}")
    rows = read_attempts(address, wanted)
    if path.suffix == ".parquet":
        try:
            from small4.gateway.usage_parquet import write_parquet
        except ModuleNotFoundError:
            raise ConfigError("Parquet needs pyarrow: pip install pyarrow; or export as .csv or .json") from None
        num_rows = write_parquet(path, rows)
    else:
        with path.open("w", encoding="utf-8", newline="") as file:
            num_rows = write_csv(file, AttemptRow, rows) if path.suffix == ".csv" else write_json(file, rows)
    print(f"wrote {num_rows:,} attempts to {path}")


def _moment(text: str) -> "datetime | None":
    """The time that `--since` means."""
    from datetime import UTC, datetime, timedelta

    from small4.errors import ConfigError

    if text == "all":
        return None
    if found := re.fullmatch(r"(\d{1,5})([hdw])", text):
        hours = {"h": 1, "d": 24, "w": 168}[found[2]]
        return datetime.now(UTC) - timedelta(hours=int(found[1]) * hours)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"--since {text} is no time; give a day (2026-11-01), 12h, 7d, 4w or all") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
