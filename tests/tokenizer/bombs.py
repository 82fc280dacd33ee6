"""Images that pass every check on their header and are small as files, and take their decoder as long as one wants."""

import struct
from io import BytesIO

from PIL import Image

SCAN, END, RESTARTS = 0xDA, 0xD9, range(0xD0, 0xD8)


def progressive_bomb(side: int, num_scans: int) -> bytes:
    """A JPEG whose last scan comes again and again, in 64 bytes; the decoder goes through all pixels for each."""
    file = BytesIO()
    Image.new("RGB", (side, side)).save(file, "JPEG", progressive=True)
    pieces = _pieces(file.getvalue())
    table_and_scan = b"".join(pieces[-2:])
    return b"\xff\xd8" + b"".join(pieces) + table_and_scan * num_scans + bytes([0xFF, END])


def _pieces(jpeg: bytes) -> list[bytes]:
    """The segments of a JPEG between its first and its last mark, each with the coded data behind it."""
    pieces, place = [], 2
    while jpeg[place + 1] != END:
        end = place + 2 + struct.unpack_from(">H", jpeg, place + 2)[0]
        if jpeg[place + 1] == SCAN:
            while jpeg[end] != 0xFF or jpeg[end + 1] == 0 or jpeg[end + 1] in RESTARTS:
                end += 1
        pieces.append(jpeg[place:end])
        place = end
    return pieces
