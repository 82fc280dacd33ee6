"""Bodies that come compressed though they were not asked for so: unpacked with a bound on what they unpack to."""

import zlib
from collections.abc import Iterator
from typing import Protocol

from small4.errors import UpstreamError

_PIECE_BYTES = 64 * 1024  # that are unpacked at once, however small what they come from


class Inflater(Protocol):
    """Takes the bytes of a body as they come and gives those that they stand for."""

    def feed(self, data: bytes) -> Iterator[bytes]: ...

    def finish(self) -> None:
        """Raises if the body was cut off."""


def inflater_for(encoding: str) -> Inflater:
    """What reads a body of this `Content-Encoding`."""
    match encoding.strip().lower():
        case "" | "identity":
            return _Plain()
        case "gzip" | "x-gzip" | "deflate":
            return _Zlib()
    raise UpstreamError("the provider compressed its answer in a way that was not asked for and is not read")


class _Plain:
    def feed(self, data: bytes) -> Iterator[bytes]:
        yield data

    def finish(self) -> None:
        pass


class _Zlib:
    def __init__(self) -> None:
        self._stream = zlib.decompressobj(zlib.MAX_WBITS | 32)  # tells gzip and zlib apart by itself

    def feed(self, data: bytes) -> Iterator[bytes]:
        """In small pieces, so that who counts them can stop before the rest is unpacked."""
        is_full = False
        while data or is_full:
            if self._stream.eof and data:
                raise UpstreamError("the provider's compressed answer goes on after its end")
            try:
                piece = self._stream.decompress(data, _PIECE_BYTES)
            except zlib.error:
                raise UpstreamError("the provider's compressed answer is broken") from None
            yield piece
            # A full piece may have more behind it even where all of the data was taken.
            data, is_full = self._stream.unconsumed_tail or self._stream.unused_data, len(piece) == _PIECE_BYTES

    def finish(self) -> None:
        if not self._stream.eof:
            raise UpstreamError("the provider's compressed answer was cut off")
