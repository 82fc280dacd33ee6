"""The conversation of `small4 chat`: what a line means, and what is kept of it.

Lines come from a function and text goes to an `Ink`, so that a test can hold a conversation without a terminal.
"""

import difflib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from small4.answer import Answer
from small4.chat import ChatRequest, Effort, ImagePart, Message, TextPart, ThinkPart
from small4.cli.answer import finish_note, follow
from small4.cli.drawing import Drawing
from small4.cli.failures import mendable
from small4.cli.ink import Ink
from small4.cli.request import check_text, parse_budget, parse_effort, read_image, user_message
from small4.cli.speaker import Speaker, label
from small4.cli.transcript import save_transcript
from small4.errors import ImageError, RequestError, Small4Error


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What holds for every question until a command changes it."""

    effort: Effort
    system: str | None = None
    budget: int | None = None  # tokens of thought
    max_tokens: int | None = None
    drawing: Drawing = field(default_factory=Drawing)
    hide_reasoning: bool = False
    has_memory: bool = True  # earlier questions and answers go with the next question


@dataclass(frozen=True, slots=True)
class Command:
    """One /command: the method that does it takes what was typed after its name."""

    run: Callable[["Repl", str], None]
    usage: str
    help: str


class Repl:
    """One conversation with one model."""

    def __init__(self, speaker: Speaker, ink: Ink, settings: Settings) -> None:
        self.speaker, self.ink, self.settings = speaker, ink, settings
        self.messages: list[Message] = []  # without the system prompt, which is a setting
        self.images: list[ImagePart] = []  # wait for the next question
        self.num_tokens = 0  # of the conversation after the last answer
        self.is_over = False

    def run(self, read: Callable[[], str]) -> None:
        """Read and answer lines until /exit or the end of input. Ctrl-C drops the line that is being typed."""
        self.ink.line(label(self.speaker), "dim")
        if not self.settings.has_memory:
            self.ink.line("it takes every question on its own, as it was trained to; /memory on changes that", "dim")
        self.ink.line("/help lists the commands, Ctrl-D leaves", "dim")
        while not self.is_over:
            try:
                line = read()
            except KeyboardInterrupt:
                self.ink.line("(Ctrl-D or /exit leaves)", "dim")
                continue
            except EOFError:
                return
            try:
                self.take(line)
            except (Small4Error, OSError) as error:
                self.ink.line(f"error: {mendable(error) or error}", "error")

    def take(self, line: str) -> None:
        """Do what one line asks for."""
        if line.startswith("/"):
            self.command(line)
        elif line.strip():
            self.ask(line.strip())
            self.ink.line()

    def ask(self, text: str) -> Answer:
        """Put a question and show the answer. A refused request leaves the conversation as it was."""
        question = user_message(text, tuple(self.images))
        request = ChatRequest(
            messages=(*self._system(), *(self.messages if self.settings.has_memory else ()), question),
            effort=self.settings.effort,
            sampling=self.settings.drawing.at(self.settings.effort, self.speaker.temperatures),
            max_tokens=self.settings.max_tokens,
            thinking_budget=self.settings.budget,
        )
        thoughts = None if self.settings.hide_reasoning else self.ink
        try:
            answer = follow(self.speaker.stream(request), thoughts=thoughts, text=self.ink).answer
        except ImageError:
            self.images = []  # or the next question would be refused for them too
            raise
        if note := finish_note(answer, self.speaker):
            self.ink.line(note, "dim")
        if answer.text:
            self.messages += [question, _as_message(answer)]
            self.images = []
            self.num_tokens = answer.usage.prompt_tokens + answer.usage.completion_tokens or self.num_tokens
        elif answer.finish_reason == "aborted":
            self.ink.line("(nothing was said yet; the question is forgotten)", "dim")
        else:
            self.ink.line("(the model gave no answer; the question is forgotten)", "dim")
        return answer

    def command(self, line: str) -> None:
        """Do a line that begins with a slash."""
        name, _, rest = line[1:].strip().partition(" ")
        if name not in COMMANDS:
            similar = difflib.get_close_matches(name, COMMANDS, n=1)
            hint = f"did you mean /{similar[0]}?" if similar else "/help lists them"
            raise RequestError(f"there is no command /{name}; {hint} (a blank before the slash sends it as text)")
        COMMANDS[name].run(self, rest.strip())

    def state_line(self) -> str:
        """What holds now, in one short line."""
        budget = "" if self.settings.budget is None else f", budget {self.settings.budget}"
        waiting = f", {len(self.images)} image(s) for the next question" if self.images else ""
        used = f", {self.num_tokens} of {self.speaker.context_length} tokens"
        return f"{self.speaker.name}, effort {self.settings.effort}{budget}{used}{waiting}"

    def _system(self) -> tuple[Message, ...]:
        return (Message("system", self.settings.system),) if self.settings.system else ()

    # --- commands ---

    def set_effort(self, rest: str) -> None:
        if rest:
            self.settings = replace(self.settings, effort=parse_effort(rest))
        self.ink.line(f"effort {self.settings.effort}", "dim")

    def set_budget(self, rest: str) -> None:
        if rest:
            self.settings = replace(self.settings, budget=parse_budget(rest))
        budget = self.settings.budget
        self.ink.line("no thinking budget" if budget is None else f"thinking budget {budget} tokens", "dim")

    def set_system(self, rest: str) -> None:
        if rest:
            self.settings = replace(self.settings, system=None if rest == "off" else check_text(rest))
        self.ink.line(f"system prompt: {self.settings.system or 'none'}", "dim")

    def set_memory(self, rest: str) -> None:
        if rest not in ("", "on", "off"):
            raise RequestError(f"memory is on or off, not {rest!r}")
        if rest:
            self.settings = replace(self.settings, has_memory=rest == "on")
        self.ink.line("the conversation goes along" if self.settings.has_memory else "every question alone", "dim")

    def add_image(self, rest: str) -> None:
        if not rest:
            raise RequestError("which image? /image PATH attaches one to the next question")
        path = Path(rest.strip("'\""))
        self.images.append(read_image(path))
        self.ink.line(f"{path.name} goes with the next question", "dim")

    def save(self, rest: str) -> None:
        if not rest:
            raise RequestError("where to? /save FILE writes the conversation: JSON if it ends in .json, else Markdown")
        path = save_transcript(Path(rest), [*self._system(), *self.messages], label(self.speaker))
        self.ink.line(f"saved to {path}", "dim")

    def start_anew(self, rest: str) -> None:
        self.messages, self.images, self.num_tokens = [], [], 0
        self.ink.line("a new conversation; effort, budget and system prompt stay", "dim")

    def show_help(self, rest: str) -> None:
        width = max(len(command.usage) for command in COMMANDS.values())
        for command in COMMANDS.values():
            self.ink.line(f"  {command.usage.ljust(width)}  {command.help}")
        self.ink.line("Enter sends; Alt-Enter, or Enter inside an open ``` fence, begins a new line.")
        self.ink.line("Ctrl-C stops the answer, Ctrl-D leaves. Arrow up recalls earlier lines.")
        self.ink.line(self.state_line(), "dim")

    def leave(self, rest: str) -> None:
        self.is_over = True


COMMANDS = {
    "effort": Command(Repl.set_effort, "/effort [none|high]", "whether the model thinks before it answers"),
    "budget": Command(Repl.set_budget, "/budget [N|off]", "most tokens of thought"),
    "image": Command(Repl.add_image, "/image PATH", "attach an image to the next question"),
    "system": Command(Repl.set_system, "/system [TEXT|off]", "the system prompt"),
    "memory": Command(Repl.set_memory, "/memory [on|off]", "whether the conversation goes with the next question"),
    "save": Command(Repl.save, "/save FILE", "write the conversation: JSON if it ends in .json, else Markdown"),
    "new": Command(Repl.start_anew, "/new", "forget the conversation"),
    "help": Command(Repl.show_help, "/help", "this list"),
    "exit": Command(Repl.leave, "/exit", "leave, as Ctrl-D does"),
}


def _as_message(answer: Answer) -> Message:
    """The answer as the next request repeats it: with its thought, as the template wants it."""
    if not answer.reasoning:
        return Message("assistant", answer.text)
    return Message("assistant", (ThinkPart(answer.reasoning), TextPart(answer.text)))
