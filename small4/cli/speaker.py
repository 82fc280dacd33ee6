"""What the command line talks to, whether `llm.LLM` or `hosted.Hosted`, and how an LLM is loaded."""

import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Protocol

from small4.chat import AnswerEvent, ChatEvent, ChatRequest, Effort
from small4.cli.ink import Ink
from small4.hub.names import locate
from small4.providers.provider import NANO_NOTE

if TYPE_CHECKING:
    from small4.engine.engine import Engine
    from small4.kernels.quantized import Kind
    from small4.llm import LLM


class Speaker(Protocol):
    """Whatever answers; the tests have a small one without a network inside."""

    @property
    def name(self) -> str: ...

    @property
    def is_nano(self) -> bool: ...

    @property
    def context_length(self) -> int: ...

    @property
    def cache_tokens(self) -> int: ...

    @property
    def cache_note(self) -> str: ...

    @property
    def temperatures(self) -> Mapping[Effort, float]: ...

    def stream(self, request: ChatRequest) -> Iterator[ChatEvent]: ...

    def events(self, request: ChatRequest) -> Iterator[AnswerEvent]: ...


def load_speaker(
    model: str,
    *,
    check_digests: bool = True,
    cache_bytes: int | None = None,
    quant: "Kind | None" = None,
    draft: str | None = None,
    max_step_seconds: float | None = None,
) -> "LLM":
    """The model of that name; while it loads, a terminal says so. Whoever sits there can end a step with Ctrl-C."""
    for name in [model] if draft is None else [model, draft]:
        locate(name)  # a wrong name is told at once, not after torch is loaded
    ink = Ink(sys.stderr)
    if ink.is_terminal:
        ink.write(f"loading {model} ...", "dim")
    try:
        import torch

        from small4.engine.config import EngineConfig
        from small4.llm import load

        config = EngineConfig(cache_bytes=cache_bytes, max_step_seconds=max_step_seconds)
        speaker = load(model, check_digests=check_digests, engine=config, quant=quant, draft=draft)
        if speaker.is_nano:
            # Threads that share products this small wait for each other far longer than they work.
            torch.set_num_threads(1)
        return speaker
    finally:
        ink.erase_line()


def load_engine(model: str, max_running: int, quant: "Kind | None" = None, draft: str | None = None) -> "Engine":
    """The engine of a model by itself, for measuring; without the prefix cache, so that every prompt is computed."""
    locate(model)
    import torch

    from small4.engine.config import EngineConfig
    from small4.engine.engine import Engine
    from small4.llm import load

    llm = load(model, quant=quant, draft=draft)
    if llm.is_nano:
        torch.set_num_threads(1)
    config = EngineConfig(max_running=max_running, has_prefix_cache=False)
    return Engine(
        llm.model,
        config,
        context_length=llm.context_length,
        num_ids=llm.tokenizer.vocab_size,
        draft_head=llm.provider.draft_head,
    )


def label(speaker: Speaker) -> str:
    """How the model is named wherever it speaks; a nano always says what it is."""
    return f"{speaker.name} ({NANO_NOTE})" if speaker.is_nano else speaker.name


def default_effort(speaker: Speaker) -> Effort:
    """A nano is there to show its thinking; any other model starts as its template does, without."""
    return "high" if speaker.is_nano else "none"
