from io import StringIO

import pytest

from small4.cli.ink import Ink


def test_piped_text_has_no_colour_codes() -> None:
    stream = StringIO()
    Ink(stream).line("so", "dim")
    assert stream.getvalue() == "so\n"


def test_terminal_text_is_styled() -> None:
    stream = StringIO()
    Ink(stream, is_terminal=True, has_colour=True).write("so", "dim")
    assert stream.getvalue() == "\x1b[2mso\x1b[0m"


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_environment_turns_colour_off(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    assert not Ink(StringIO(), is_terminal=True).has_colour


def test_a_model_cannot_send_control_codes_to_a_terminal() -> None:
    stream = StringIO()
    Ink(stream, is_terminal=True, has_colour=False).write("a\x1b[2Jb\x07\x9b\tc\n")
    assert stream.getvalue() == "a\u241b[2Jb\u2407\ufffd\tc\n"


def test_piped_text_keeps_every_byte() -> None:
    stream = StringIO()
    Ink(stream).write("a\x1bb")
    assert stream.getvalue() == "a\x1bb"


def test_table_cuts_nothing() -> None:
    stream = StringIO()
    Ink(stream).table(("name", "size"), [("x" * 300, "1 B")])
    assert stream.getvalue().splitlines()[1] == "x" * 300 + "  1 B"


def test_table_without_rows_is_its_header() -> None:
    stream = StringIO()
    Ink(stream).table(("name", "size"), [])
    assert stream.getvalue() == "name  size\n"
