"""The lines of a batch's input: where each begins in its file, so that only those being answered are in memory."""

import hashlib
import os
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from small4.errors import FieldError, TooLargeError
from small4.server.bounds import KIB, Bounds
from small4.wire.openai_batch import Endpoint, custom_id_of, parse_line

PIECE_BYTES = 64 * KIB
HEAD_BYTES = 8 * KIB  # of a line, around the request's body


class BatchLines:
    """The requests in a file; reading it all takes time, so make one in a thread."""

    def __init__(self, path: Path, endpoint: Endpoint, bounds: Bounds) -> None:
        self._path, self._endpoint = path, endpoint
        self._max_bytes = bounds.max_body_bytes + HEAD_BYTES
        self._starts, self._sizes = array("Q"), array("Q")
        self._repeated: set[int] = set()  # lines whose custom_id an earlier one has
        with path.open("rb") as file:
            self._index(file, bounds.max_batch_lines)

    def __len__(self) -> int:
        return len(self._starts)

    def request(self, index: int) -> tuple[str, bytes]:
        """The `custom_id` and the body of a request; raises what is wrong with its line."""
        if self._sizes[index] > self._max_bytes:
            raise TooLargeError(f"the line has more than {self._max_bytes} bytes, the limit; send less at once")
        if index in self._repeated:
            raise FieldError("an earlier line has the same custom_id; each needs its own", "custom_id")
        return parse_line(self._read(index), self._endpoint)

    def custom_id(self, index: int) -> str | None:
        """The `custom_id` of a line that may be wrong otherwise."""
        return None if self._sizes[index] > self._max_bytes else custom_id_of(self._read(index))

    def _index(self, file: BinaryIO, max_lines: int) -> None:
        seen: set[bytes] = set()
        for start, size, line in _lines(file, self._max_bytes):
            if len(self) == max_lines:
                raise FieldError(f"the file has more than {max_lines} lines, the limit; send it in several")
            custom_id = custom_id_of(line)
            if custom_id is not None:
                digest = hashlib.blake2b(custom_id.encode("utf-8", "replace"), digest_size=16).digest()
                if digest in seen:
                    self._repeated.add(len(self))
                seen.add(digest)
            self._starts.append(start)
            self._sizes.append(size)
        if not len(self):
            raise FieldError("the file has no line; each line of it is one request")

    def _read(self, index: int) -> bytes:
        with self._path.open("rb") as file:
            return os.pread(file.fileno(), self._sizes[index], self._starts[index])


def _lines(file: BinaryIO, max_bytes: int) -> Iterator[tuple[int, int, bytes]]:
    """Where each line that is not blank begins, its size, and its bytes; of one that is too long, none."""
    start = size = 0
    pieces: list[bytes] = []
    is_blank = True
    while piece := file.readline(PIECE_BYTES):
        size += len(piece)
        is_blank = is_blank and not piece.strip()
        if size <= max_bytes:
            pieces.append(piece)
        if piece.endswith(b"\n"):
            if not is_blank:
                yield start, size, b"".join(pieces) if size <= max_bytes else b""
            start, size, pieces, is_blank = start + size, 0, [], True
    if not is_blank:
        yield start, size, b"".join(pieces) if size <= max_bytes else b""
