"""Usage as CSV and JSON: every field, times by ISO 8601, money as decimal text so that no digit is lost."""

import csv
import json
from collections.abc import Iterable
from dataclasses import asdict, fields
from datetime import datetime
from decimal import Decimal
from typing import Any, TextIO, TypeVar

from small4.gateway.usage import AttemptRow, UsageRow

AnyRow = TypeVar("AnyRow", AttemptRow, UsageRow)


def write_csv(file: TextIO, kind: type[AnyRow], rows: Iterable[AnyRow]) -> int:
    """A line of names, then one for each row; unknown is empty. Returns the number of rows."""
    writer = csv.DictWriter(file, [field.name for field in fields(kind)])
    writer.writeheader()
    num_rows = 0
    for row in rows:
        writer.writerow({name: "" if value is None else _plain(value) for name, value in asdict(row).items()})
        num_rows += 1
    return num_rows


def write_json(file: TextIO, rows: Iterable[AnyRow]) -> int:
    """A list with one object on each line; returns the number of rows."""
    num_rows = 0
    for row in rows:
        file.write(",\n" if num_rows else "[\n")
        json.dump({name: _plain(value) for name, value in asdict(row).items()}, file)
        num_rows += 1
    file.write("\n]\n" if num_rows else "[]\n")
    return num_rows


def _plain(value: Any) -> Any:
    match value:
        case Decimal():
            return f"{value:f}"
        case datetime():
            return value.isoformat()
        case _:
            return value
