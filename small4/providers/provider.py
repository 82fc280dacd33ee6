"""What all who answer chat requests have in common: `Provider.stream`, and what it is told beside the request."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Literal, Protocol

from small4.answer import Answer, collect_all
from small4.chat import AnswerEvent, ChatRequest, Effort
from small4.wire.routing_fields import ProviderFields

Ability = Literal["tools", "reasoning", "images", "structured output", "logprobs"]
Priority = Literal["interactive", "batch"]  # who waits for a person, and who may wait for the others

NANO_NOTE = "a small demonstration model of the same architecture, not Mistral Small 4"


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Whoever asks, as far as it matters for the answer."""

    name: str = ""  # callers of different names share a provider fairly
    salt: bytes = b""  # callers of different salts never share a cached prefix; derive it from the key, as a digest
    priority: Priority = "interactive"
    request_id: str = ""  # under which the request is booked and explained
    app: str = ""  # on whose behalf, where it is one's
    dialect: str = ""  # that the request came in
    wishes: ProviderFields | None = None  # which routes it may take, and in what order, for whoever has several


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """What can be said of the model behind a provider without asking it anything."""

    name: str
    context_length: int  # tokens of prompt and answer together
    abilities: frozenset[Ability] = frozenset()
    temperatures: Mapping[Effort, float] = field(default_factory=dict)  # that it is recommended to run at
    note: str = ""  # to be shown wherever the model is named


class Provider(Protocol):
    """Answers chat requests of one model."""

    @property
    def model(self) -> ServedModel: ...

    def stream(self, request: ChatRequest, caller: Caller) -> AsyncGenerator[AnswerEvent, None]:
        """The events of all `request.num_answers` answers as they come, each answer's last one a `Finish`.

        Raises what is wrong with the request before the first event. An answer that fails ends with the reason "error"
        and leaves the others alone; where none is left, its error is raised. Closing the generator ends the answers
        within one step of the engine.
        """
        ...

    async def count_tokens(self, request: ChatRequest) -> int:
        """Tokens of the prompt that the request becomes."""
        ...


async def collect(stream: AsyncGenerator[AnswerEvent, None]) -> list[Answer]:
    """The answers of a stream that is read to its end, in order."""
    async with aclosing(stream):
        return collect_all([event async for event in stream])
