"""Attempts as Parquet. Needs pyarrow, which small4 does not bring; whoever imports this says so where it is missing."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path

import pyarrow
import pyarrow.parquet

from small4.gateway.usage import AttemptRow

MAX_ROWS = 50_000  # in memory at once

_MONEY = pyarrow.decimal128(38, 12)
_SECONDS, _COUNT, _TEXT = pyarrow.float64(), pyarrow.int64(), pyarrow.string()
SCHEMA = pyarrow.schema(
    [
        *((name, _TEXT) for name in ("request_id", "state", "key", "app", "route", "dialect", "model")),
        ("attempt", pyarrow.int32()),
        ("began", pyarrow.timestamp("us", tz="UTC")),
        ("first_token_seconds", _SECONDS),
        ("duration_seconds", _SECONDS),
        *((name, _COUNT) for name in ("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens")),
        ("is_estimate", pyarrow.bool_()),
        ("held", _MONEY),
        ("cost", _MONEY),
        ("finish", _TEXT),
        ("error_class", _TEXT),
    ]
)


def write_parquet(path: Path, rows: Iterable[AttemptRow]) -> int:
    """Write a file with one row group for every so many attempts; returns their number."""
    num_rows = 0
    with pyarrow.parquet.ParquetWriter(path, SCHEMA) as writer:
        for group in _groups(iter(rows)):
            writer.write_table(pyarrow.Table.from_pylist([asdict(row) for row in group], schema=SCHEMA))
            num_rows += len(group)
    return num_rows


def _groups(rows: Iterator[AttemptRow]) -> Iterator[list[AttemptRow]]:
    while group := list(islice(rows, MAX_ROWS)):
        yield group
