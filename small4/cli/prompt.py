"""The line editor of `small4 chat`: history, several lines, completion of commands. The only user of prompt_toolkit."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.filters import Condition
from prompt_toolkit.formatted_text import FormattedText
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import ColorDepth

from small4.cli.repl import COMMANDS

FILE_COMMANDS = ("/image ", "/save ")


def make_reader(history_path: Path, state_line: Callable[[], str], *, has_colour: bool) -> Callable[[], str]:
    """A function that reads one message, of one line or several, with `state_line` below it."""
    session: PromptSession[str] = PromptSession(
        message="> ",
        multiline=True,
        prompt_continuation=lambda width, number, is_soft: "" if is_soft else ". ",
        key_bindings=_keys(),
        history=_history(history_path),
        completer=CommandCompleter(),
        complete_while_typing=Condition(lambda: session.default_buffer.text.startswith("/")),
        bottom_toolbar=lambda: FormattedText([("noreverse", state_line())]),
        color_depth=None if has_colour else ColorDepth.DEPTH_1_BIT,
        enable_open_in_editor=False,
    )
    return session.prompt


def has_open_fence(text: str) -> bool:
    """Whether a ``` block was begun and not ended."""
    return sum(line.lstrip().startswith("```") for line in text.split("\n")) % 2 == 1


class CommandCompleter(Completer):
    """Names after a slash, paths after the commands that take one; nothing in a question."""

    def __init__(self) -> None:
        self.paths = PathCompleter(expanduser=True)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        text = document.text_before_cursor
        for command in FILE_COMMANDS:
            if text.startswith(command):
                rest = text.removeprefix(command)
                yield from self.paths.get_completions(Document(rest, len(rest)), complete_event)
                return
        if text.startswith("/") and " " not in text:
            for name, entry in COMMANDS.items():
                if name.startswith(text[1:]):
                    yield Completion(f"/{name}", start_position=-len(text), display_meta=entry.help)


def _keys() -> KeyBindings:
    keys = KeyBindings()

    @keys.add("enter")
    def send(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if has_open_fence(buffer.text):
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def begin_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return keys


def _history(path: Path) -> History:
    """Earlier lines, readable by their owner only; without a writable place they last as long as the program."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600))
    except OSError:
        return InMemoryHistory()
    return FileHistory(str(path))
