"""A provider that replays given events: for tests and demonstrations of all that stands before a provider."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

from small4.chat import AnswerEvent, ChatEvent, ChatRequest, Finish, TextDelta, TextPart, ThinkPart, Usage
from small4.providers.provider import Caller, ServedModel


@dataclass(frozen=True, slots=True)
class Pause:
    """Time that passes before the next event."""

    seconds: float


# An event without an index is of answer 0; an exception is raised where it stands.
Step = AnswerEvent | ChatEvent | Pause | Exception

HELLO: tuple[Step, ...] = (TextDelta("Hello"), TextDelta("!"), Finish("stop", Usage(5, 3)))
SCRIPTED = ServedModel(
    name="scripted",
    context_length=262_144,
    abilities=frozenset({"tools", "reasoning", "images", "structured output", "logprobs"}),
    note="replays a script, whatever it is asked",
)


class ScriptedProvider:
    """Answers every request with the next script, the last one again and again; keeps what it was asked."""

    def __init__(self, *scripts: Sequence[Step], model: ServedModel = SCRIPTED) -> None:
        self.model = model
        self.requests: list[tuple[ChatRequest, Caller]] = []
        self.num_open = 0  # streams that have begun and not ended
        self.num_left = 0  # streams that were left before their end
        self._scripts = list(scripts or (HELLO,))

    def say(self, *scripts: Sequence[Step]) -> None:
        """Answer with these scripts from now on."""
        self._scripts = list(scripts)

    async def stream(self, request: ChatRequest, caller: Caller) -> AsyncGenerator[AnswerEvent, None]:
        """The events of a script, with its pauses, up to its end or its first exception."""
        self.requests.append((request, caller))
        script = self._scripts.pop(0) if len(self._scripts) > 1 else self._scripts[0]
        self.num_open += 1
        try:
            for step in script:
                match step:
                    case Pause(seconds):
                        await asyncio.sleep(seconds)
                    case Exception():
                        raise step
                    case AnswerEvent():
                        yield step
                    case _:
                        yield AnswerEvent(0, step)
        except (GeneratorExit, asyncio.CancelledError):
            self.num_left += 1
            raise
        finally:
            self.num_open -= 1

    async def count_tokens(self, request: ChatRequest) -> int:
        """Words of the messages: a script has no tokens."""
        contents = [message.content for message in request.messages]
        texts = [content for content in contents if isinstance(content, str)]
        parts = [part for content in contents if not isinstance(content, str) for part in content]
        texts += [part.text for part in parts if isinstance(part, TextPart | ThinkPart)]
        return sum(len(text.split()) for text in texts)
