"""`small4 chat` where there is no terminal, and in a real one."""

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document

from small4.cli.chat import demonstrate
from small4.cli.ink import Ink
from small4.cli.prompt import CommandCompleter, has_open_fence
from small4.cli.repl import Settings
from tests.cli.scripted import NANO_LABEL, ScriptedSpeaker

ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 60.0  # a guard against hanging
WHERE_IS_THE_CURSOR = "\x1b[6n"  # a question that terminals answer


def test_without_a_terminal_one_question_is_answered_with_its_thought() -> None:
    speaker, stream = ScriptedSpeaker(), StringIO()
    demonstrate(speaker, Ink(stream), Settings(effort="none"))
    text = stream.getvalue()
    assert text.startswith(NANO_LABEL)
    assert "> 17+48+36+25\nthinking:\n  17+48: 7+8=15\n  so 65\nanswer:\n65\n" in text
    assert [(r.effort, r.messages[-1].content) for r in speaker.requests] == [("high", "17+48+36+25")]


@pytest.mark.parametrize(
    ("text", "is_open"),
    [
        ("", False),
        ("a `b` c", False),
        ("look:\n```python\nx = 1", True),
        ("look:\n```python\nx = 1\n```", False),
        ("```a```", True),
        ("```\na\n```\n  ```\nb", True),
    ],
)
def test_a_fence_is_open_until_its_second_line(text: str, is_open: bool) -> None:
    assert has_open_fence(text) == is_open


def completions(text: str) -> list[str]:
    found = CommandCompleter().get_completions(Document(text, len(text)), CompleteEvent())
    return [completion.text for completion in found]


def test_commands_and_their_files_are_completed(tmp_path: Path) -> None:
    (tmp_path / "cat.png").touch()
    assert completions("/e") == ["/effort", "/exit"]
    assert completions("e") == []
    assert completions(f"/image {tmp_path}/c") == ["at.png"]


PROGRAM = """
import sys, time
from small4.chat import Finish, ReasoningDelta, TextDelta, Usage
from small4.cli.chat import converse
from small4.cli.ink import Ink
from small4.cli.repl import Repl, Settings
from tests.cli.scripted import NANO_LABEL, SUM, ScriptedSpeaker

class Slow(ScriptedSpeaker):
    def stream(self, request):
        if "slowly" not in str(request.messages[-1].content):
            yield from super().stream(request)
            return
        yield TextDelta("begun")
        while True:  # short, as tokens are: a signal that lands just before one long sleep would wait for its end
            time.sleep(0.05)

repl = Repl(Slow(), Ink(sys.stdout), Settings(effort="none"))
converse(repl)
print([message.content for message in repl.messages if message.role == "user"])
"""


class Terminal:
    """A program in a pseudo-terminal: type to it, and wait for what it shows."""

    def __init__(self, program: str, state: Path) -> None:
        self.shown = ""
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
        # Ctrl-C must reach the program as a signal, so the terminal has to control its session.
        control = "import fcntl, termios\nfcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
        # A shell's background job ignores Ctrl-C, and so would all that these tests start from one.
        control += "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "XDG_STATE_HOME": str(state), "TERM": "xterm"}
        environment.pop("NO_COLOR", None)
        self.process = subprocess.Popen(
            [sys.executable, "-c", control + program],
            env=environment,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def wait_for(self, text: str) -> str:
        """What was shown up to and with `text`; it is not looked at again."""
        end = time.monotonic() + PATIENCE_SECONDS
        while text not in self.shown:
            if not select.select([self.master], [], [], max(0.0, end - time.monotonic()))[0]:
                raise AssertionError(f"{text!r} did not come; there is {self.shown!r}")
            try:
                piece = os.read(self.master, 65536).decode(errors="replace")
            except OSError as error:  # the program ended
                raise AssertionError(f"{text!r} did not come before the end; there is {self.shown!r}") from error
            if WHERE_IS_THE_CURSOR in piece:
                self.type("\x1b[1;1R")
            self.shown += piece
        before, _, self.shown = self.shown.partition(text)
        return before + text


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    terminal = Terminal(PROGRAM, tmp_path)
    yield terminal
    terminal.process.kill()
    terminal.process.wait()
    os.close(terminal.master)


def test_a_conversation_in_a_real_terminal(terminal: Terminal, tmp_path: Path) -> None:
    terminal.wait_for("Ctrl-D leaves")
    terminal.wait_for("effort none")  # the line below the prompt
    terminal.type("17+48\r")
    terminal.wait_for("\x1b[2m  17+48: 7+8=15")
    terminal.wait_for("65")
    terminal.wait_for("21 of 2048 tokens")

    terminal.type("slowly\r")
    terminal.wait_for("begun")
    terminal.type("\x03")  # Ctrl-C stops the answer
    terminal.wait_for("(stopped)")

    terminal.wait_for("tokens")
    terminal.type("one\x1b\rtwo\r")  # Alt-Enter begins a line
    terminal.wait_for("answer:")
    terminal.wait_for("tokens")
    terminal.type("```\rcode\r```\r")  # so does Enter in an open fence
    terminal.wait_for("answer:")
    terminal.wait_for("tokens")
    terminal.type("half a line\x03")  # Ctrl-C drops the line
    terminal.wait_for("/exit leaves")
    terminal.wait_for("tokens")
    terminal.type("\x04")  # Ctrl-D leaves
    asked = terminal.wait_for("```']")
    assert "['17+48', 'slowly', 'one\\ntwo', '```\\ncode\\n```']" in asked
    assert terminal.process.wait() == 0

    history = tmp_path / "small4" / "chat_history"
    assert "+17+48\n" in history.read_text()
    assert (history.stat().st_mode | history.parent.stat().st_mode) & 0o077 == 0
