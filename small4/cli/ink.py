"""Text to one stream: styled in a terminal, plain everywhere else.

In a terminal, control characters in the text itself are made visible: what a model or a file name says must not move
the cursor or rewrite the screen.
"""

import os
import re
from collections.abc import Sequence
from typing import Literal, TextIO

Style = Literal["dim", "label", "bold", "error"]

_CODES: dict[Style, str] = {"dim": "2", "label": "2;3", "bold": "1", "error": "31"}
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Ink:
    """Writes to a stream and flushes, so that an answer appears as it comes."""

    def __init__(self, stream: TextIO, *, is_terminal: bool | None = None, has_colour: bool | None = None) -> None:
        self.stream = stream
        self.is_terminal = stream.isatty() if is_terminal is None else is_terminal
        self.has_colour = self.is_terminal and _wants_colour() if has_colour is None else has_colour

    def write(self, text: str, style: Style | None = None) -> None:
        """Write `text` as it is, without a line end."""
        if self.is_terminal:
            text = _CONTROL.sub(_visible, text)
        if self.has_colour and style and text:
            text = f"\x1b[{_CODES[style]}m{text}\x1b[0m"
        self.stream.write(text)
        self.stream.flush()

    def line(self, text: str = "", style: Style | None = None) -> None:
        """Write `text` and a line end."""
        self.write(text, style)
        self.write("\n")

    def erase_line(self) -> None:
        """Take back the unfinished line; a terminal only, elsewhere nothing was promised to vanish."""
        if self.is_terminal:
            self.stream.write("\r\x1b[K")
            self.stream.flush()

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Columns as wide as their content: nothing is cut, whatever the width of the terminal."""
        widths = [max(len(cell) for cell in column) for column in zip(header, *rows, strict=True)]
        for number, row in enumerate([header, *rows]):
            cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
            self.line("  ".join(cells).rstrip(), "dim" if number == 0 else None)


def _wants_colour() -> bool:
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _visible(match: re.Match[str]) -> str:
    code = ord(match[0])
    return chr(0x2400 + code) if code < 0x20 else "\ufffd"
