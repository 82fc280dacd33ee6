"""`LLM`: load a model, then score, generate and chat from a Python script, without a server.

model = small4.load("nano")
print(model.chat("17+48+36+25", effort="high").text)
"""

from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, aclosing, closing
from dataclasses import replace
from pathlib import Path
from typing import Unpack

import torch
from torch import Tensor

from small4.answer import Answer, collect, collect_all
from small4.chat import AnswerEvent, ChatEvent, ChatRequest, Effort, Message, Sampling
from small4.chat_options import ChatOptions, request_of
from small4.checkpoint.digests import KnownDigests
from small4.checkpoint.load import (
    build_draft,
    build_model,
    compare_digests,
    draft_config,
    model_config,
    open_checkpoint,
)
from small4.checkpoint.tokenizer_file import check_vocabulary, load_tokenizer
from small4.engine.config import EngineConfig
from small4.engine.draft_runner import check_fits
from small4.engine.engine import GenerationRequest
from small4.engine.limits import check_ids, check_lengths
from small4.engine.sampler import Draw
from small4.engine.sampling_rules import ending_ids
from small4.engine.worker import Stream
from small4.errors import ConfigError, RequestError, Small4Error
from small4.hub.names import NANO, locate
from small4.kernels.ops import backend
from small4.kernels.quantized import Kind
from small4.model.attention import FullAttention
from small4.model.config import ModelConfig
from small4.model.draft_head import DraftHead
from small4.model.quantize import quantize_head, quantize_model
from small4.model.transformer import Transformer
from small4.providers.local import NOBODY, LocalProvider, PreparedRequest
from small4.tokenizer.tekken import Tokenizer


class LLM:
    """One loaded model with its tokenizer and its engine; any number of threads may ask at once."""

    def __init__(
        self,
        name: str,
        model: Transformer,
        tokenizer: Tokenizer,
        *,
        engine: EngineConfig | None = None,
        draft_head: DraftHead | None = None,
    ) -> None:
        check_vocabulary(tokenizer, model.config)
        self.name = name
        self.model = model
        self.tokenizer = tokenizer
        self.provider = LocalProvider(name, model, tokenizer, engine=engine, draft_head=draft_head)

    @property
    def config(self) -> ModelConfig:
        return self.model.config

    @property
    def is_nano(self) -> bool:
        """Whether it is a demonstration model, which has to say so."""
        return self.provider.is_nano

    @property
    def context_length(self) -> int:
        """Tokens of prompt and answer together."""
        return self.provider.context_length

    @property
    def temperatures(self) -> Mapping[Effort, float]:
        """What it is recommended to run at, by effort; `chat` does where no temperature is given."""
        return self.provider.model.temperatures

    @property
    def cache_tokens(self) -> int:
        """Tokens that the latent cache holds; where that is less than the context, it is what bounds an answer."""
        return self.provider.worker.engine.cache_plan.num_tokens

    @property
    def cache_note(self) -> str:
        """What the latent cache holds and takes."""
        return str(self.provider.worker.engine.cache_plan)

    @torch.inference_mode()
    def logits(self, token_ids: Sequence[int], images: Sequence[Tensor] = ()) -> Tensor:
        """Scores of the next token behind every token, float32 [tokens, vocabulary], without a cache."""
        check_lengths(len(token_ids), 1, self.context_length + 1)
        check_ids(token_ids, self.config.vocab_size)
        tokens_T = torch.tensor(token_ids)
        attention = FullAttention([len(token_ids)])
        logits_TW: Tensor = self.model(tokens_T, torch.arange(len(token_ids)), attention, images)
        return logits_TW.float()

    def generate(
        self,
        token_ids: Sequence[int],
        *,
        max_tokens: int,
        sampling: Sampling | None = None,
        images: Sequence[Tensor] = (),
        stop_ids: Sequence[int] | None = None,
        thinking_budget: int | None = None,
    ) -> "TokenStream":
        """New token ids, the stop id included; ends at a stop id (default `</s>`) or after `max_tokens`."""
        sampling, eos_id = sampling or Sampling(), self.tokenizer.control.eos
        request = GenerationRequest(
            prompt=token_ids,
            max_tokens=max_tokens,
            sampling=sampling,
            thought=lambda: self.provider.thought_limit(token_ids, thinking_budget),
            stop_ids=ending_ids(sampling, (eos_id,) if stop_ids is None else stop_ids, eos_id),
            images=images,
        )
        return TokenStream(self.provider.worker.stream(request))

    def stream(self, request: ChatRequest) -> "ChatStream":
        """Answer a chat request event by event; the last one is `Finish`. Bad requests raise before the first event."""
        return ChatStream(self.provider.prepare(_of_one_answer(request)))

    def events(self, request: ChatRequest) -> Generator[AnswerEvent, None, None]:
        """The events of all answers to a request as they come, each with the number of its answer."""
        return self.provider.prepare(request).start()

    async def stream_async(self, request: ChatRequest) -> AsyncGenerator[ChatEvent, None]:
        """`stream` for asyncio. Bad requests raise before the first event; leaving early aborts the answer."""
        async with aclosing(self.provider.stream(_of_one_answer(request), NOBODY)) as events:
            async for event in events:
                yield event.event

    def answer_all(
        self,
        requests: Sequence[ChatRequest],
        *,
        on_answer: Callable[[int, Answer | Exception], None] = lambda index, answer: None,
    ) -> list[Answer | Exception]:
        """Answers to many requests, which share the engine, in order; in place of one that fails, its error.

        `on_answer` hears of each in order, with its index.
        """
        answers: list[Answer | Exception] = []
        limit = self.provider.engine_config.max_waiting
        for start in range(0, len(requests), limit):
            with ExitStack() as leaving:
                streams = [self._begin(request, leaving) for request in requests[start : start + limit]]
                for stream in streams:
                    answers.append(_end(stream))
                    on_answer(len(answers) - 1, answers[-1])
        return answers

    def chat(self, messages: str | Sequence[Message], **options: Unpack[ChatOptions]) -> Answer:
        """Answer a conversation (or one user message given as text) in one piece."""
        return collect(self.stream(request_of(messages, self.temperatures, **options)))

    def answers(self, messages: str | Sequence[Message], n: int, **options: Unpack[ChatOptions]) -> list[Answer]:
        """`n` answers to the same conversation, each drawn by itself; the prompt is computed once.

        One that fails has the finish reason "error" and its error; where all fail, that is raised.
        """
        request = replace(request_of(messages, self.temperatures, **options), num_answers=n)
        return collect_all(self.events(request))

    def _begin(self, request: ChatRequest, leaving: ExitStack) -> "ChatStream | Exception":
        try:
            return leaving.enter_context(closing(self.stream(request)))
        except Small4Error as refusal:
            return refusal


class ChatStream:
    """An iterator over the events of one answer, as they come; leaving it early ends the answer."""

    def __init__(self, prepared: PreparedRequest) -> None:
        self._prepared, self._events = prepared, prepared.start()

    def __iter__(self) -> "ChatStream":
        return self

    def __next__(self) -> ChatEvent:
        return next(self._events).event

    def answer_now(self) -> None:
        """End the thought with the next token, and let no other begin; from any thread."""
        self._prepared.answer_now()

    def close(self) -> None:
        """End the answer here."""
        self._events.close()


class TokenStream:
    """An iterator over the token ids of one generation, as they are drawn; leaving it early ends the generation."""

    def __init__(self, outputs: Stream) -> None:
        self._draws = _draws(outputs)

    def __iter__(self) -> "TokenStream":
        return self

    def __next__(self) -> int:
        return next(self._draws).token_id

    def draws(self) -> Iterator[Draw]:
        """The same tokens with their log-probabilities, if the sampling asks for them."""
        return self._draws

    def close(self) -> None:
        """End the generation here."""
        self._draws.close()


def _draws(outputs: Stream) -> Generator[Draw, None, None]:
    """The draws of a stream of one sequence."""
    with closing(outputs):
        for output in outputs:
            yield from output.draws
            if output.error is not None:
                raise output.error


def _of_one_answer(request: ChatRequest) -> ChatRequest:
    if request.num_answers != 1:
        raise RequestError(f"the stream is of one answer, not {request.num_answers}; ask for several with `answers`")
    return request


def _end(stream: ChatStream | Exception) -> Answer | Exception:
    """The answer of a stream that is read to its end, or what ended it."""
    if isinstance(stream, Exception):
        return stream
    try:
        return collect(stream)
    except Exception as error:
        return error


def load(
    name_or_path: str | Path,
    *,
    dtype: str = "auto",
    quant: Kind | None = None,
    check_digests: bool = True,
    engine: EngineConfig | None = None,
    draft: str | Path | None = None,
) -> LLM:
    """Load "nano" (shipped), a checkpoint directory or file, or a model pulled before.

    `dtype` is "auto" (float32 for nano, else as stored, quantised weights as bfloat16), "bfloat16" or "float32".
    `quant` packs the weights to "int8" or "int4" in memory: fewer bytes to read per token, on the CPU only.
    `check_digests` compares the files with the manifest of the save, if there is one; a large file is read for that
    once, and again only after it has changed.
    `engine` bounds its cache and how much runs at once. `draft` names the model's draft head (EAGLE), which guesses
    tokens ahead where that pays; it changes no text. The number of torch's threads, which is the whole
    process's, is left to the caller.
    """
    if dtype not in ("auto", "bfloat16", "float32"):
        raise ConfigError(f"unknown dtype {dtype!r}; choose auto, bfloat16 or float32")
    if quant not in (None, "int8", "int4"):
        raise ConfigError(f"unknown quant {quant!r}; choose int8 or int4, or leave it out")
    path = locate(name_or_path)
    full = torch.float32 if name_or_path == NANO else None
    wanted = full if dtype == "auto" else getattr(torch, dtype)
    checkpoint = open_checkpoint(path)
    tokenizer = load_tokenizer(path, model_config(checkpoint))  # before the weights, which may take minutes
    drafting = None if draft is None else open_checkpoint(locate(draft))
    if drafting is not None:
        check_fits(draft_config(drafting), model_config(checkpoint))
    if check_digests:
        for each in [checkpoint] if drafting is None else [checkpoint, drafting]:
            compare_digests(each, KnownDigests.of_user())
    model = build_model(checkpoint, dtype=wanted).eval().requires_grad_(False)
    head = None
    if drafting is not None:
        head = build_draft(drafting, dtype=model.tok_embeddings.weight.dtype).eval().requires_grad_(False)
    if quant is not None:
        kernels = backend(native=engine is None or not engine.is_plain)
        quantize_model(model, quant, kernels)
        if head is not None:
            quantize_head(head, quant, kernels)
    return LLM(str(name_or_path), model, tokenizer, engine=engine, draft_head=head)
