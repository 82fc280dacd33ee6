"""A speaker without a network: it says what it was given to say, and keeps what it was asked."""

from collections.abc import Iterator

from small4.chat import TEMPERATURES, AnswerEvent, ChatEvent, ChatRequest, Finish, ReasoningDelta, TextDelta, Usage

NANO_LABEL = "nano (a small demonstration model of the same architecture, not Mistral Small 4)"
SUM: tuple[ChatEvent, ...] = (
    ReasoningDelta("17+48: 7+8=15\n"),
    ReasoningDelta("so 65"),
    TextDelta("6"),
    TextDelta("5"),
    Finish("stop", Usage(12, 9, 6)),
)


class ScriptedSpeaker:
    """Answers every request with the next script, the last one again and again; an exception in a script is raised."""

    def __init__(
        self,
        *scripts: tuple[ChatEvent | BaseException, ...],
        is_nano: bool = True,
        context_length: int = 2048,
        cache_tokens: int = 4096,
    ) -> None:
        self.scripts = list(scripts or (SUM,))
        self.requests: list[ChatRequest] = []
        self.name = "nano" if is_nano else "some/model"
        self.is_nano = is_nano
        self.context_length = context_length
        self.cache_tokens = cache_tokens
        self.temperatures = TEMPERATURES
        self.cache_note = "cache: 1 block"

    def stream(self, request: ChatRequest) -> Iterator[ChatEvent]:
        self.requests.append(request)
        script = self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]
        for event in script:
            if isinstance(event, BaseException):
                raise event
            yield event

    def events(self, request: ChatRequest) -> Iterator[AnswerEvent]:
        """As many answers as are asked for, the next scripts in turn, each event of one beside that of the others."""
        streams = [list(self.stream(request)) for _ in range(request.num_answers)]
        for place in range(max(map(len, streams))):
            for index, stream in enumerate(streams):
                if place < len(stream):
                    yield AnswerEvent(index, stream[place])
