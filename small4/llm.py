"""`LLM`: load a model, then score, generate and chat from a Python script, without a server.

model = small4.load("nano")
print(model.chat("17+48+36+25", effort="high").text)
"""

from collections.abc import AsyncIterator, Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, aclosing, closing
from pathlib import Path
from threading import Lock

import torch
from torch import Tensor

from small4.answer import Answer, collect
from small4.chat import (
    EFFORTS,
    ChatEvent,
    ChatRequest,
    Effort,
    Message,
    ResponseFormat,
    Sampling,
    Tool,
    ToolChoice,
)
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
from small4.engine.engine import Engine, GenerationRequest
from small4.engine.limits import check_ids, check_lengths
from small4.engine.sampler import Draw
from small4.engine.sampling_rules import ending_ids
from small4.engine.thought import ThoughtLimit
from small4.engine.worker import Stream, Worker
from small4.errors import ConfigError, ContextLengthError, EffortError
from small4.grammar.compiler import Compiler
from small4.grammar.constraint import Thinking, constraint_of
from small4.grammar.matcher import Grammar
from small4.grammar.vocabulary import Vocabulary
from small4.hub.names import NANO, locate
from small4.kernels.ops import backend
from small4.kernels.quantized import Kind
from small4.model.attention import FullAttention
from small4.model.config import ModelConfig
from small4.model.draft_head import DraftHead
from small4.model.quantize import quantize_head, quantize_model
from small4.model.transformer import Transformer
from small4.tokenizer.answer_stream import AnswerStream
from small4.tokenizer.tekken import Tokenizer
from small4.tokenizer.template import render

MAX_CONTEXT = 262_144  # tokens that the release answers for


class LLM:
    """One loaded model with its tokenizer and its engine; any number of threads may ask at once."""

    def __init__(
        self,
        name: str,
        model: Transformer,
        tokenizer: Tokenizer,
        *,
        is_nano: bool = False,
        engine: EngineConfig | None = None,
        draft_head: DraftHead | None = None,
    ) -> None:
        check_vocabulary(tokenizer, model.config)
        self.name = name
        self.model = model
        self.tokenizer = tokenizer
        self.is_nano = is_nano
        self.engine_config = engine or EngineConfig()
        self.draft_head = draft_head
        self._making = Lock()  # `cached_property` has no lock of its own from Python 3.12 on
        self._worker: Worker | None = None
        self._compiler: Compiler | None = None

    @property
    def config(self) -> ModelConfig:
        return self.model.config

    @property
    def context_length(self) -> int:
        """Tokens of prompt and answer together."""
        return min(self.config.max_position_embeddings, MAX_CONTEXT)

    @property
    def worker(self) -> Worker:
        """The engine's thread; its cache takes memory from the first answer on."""
        with self._making:
            if self._worker is None:
                self._worker = Worker(
                    Engine(
                        self.model,
                        self.engine_config,
                        context_length=self.context_length,
                        num_ids=self.tokenizer.vocab_size,
                        draft_head=self.draft_head,
                    )
                )
            return self._worker

    @property
    def compiler(self) -> Compiler:
        """Makes grammars of what requests want their answers to look like."""
        with self._making:
            if self._compiler is None:
                self._compiler = Compiler(Vocabulary.of(self.tokenizer))
            return self._compiler

    @property
    def cache_note(self) -> str:
        """What the latent cache holds and takes."""
        return str(self.worker.engine.cache_plan)

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
    ) -> Iterator[int]:
        """Yield new token ids, the stop id included; ends at a stop id (default `</s>`) or after `max_tokens`."""
        draws = self.draws(
            token_ids,
            max_tokens=max_tokens,
            sampling=sampling,
            images=images,
            stop_ids=stop_ids,
            thinking_budget=thinking_budget,
        )
        return (draw.token_id for draw in draws)

    def draws(
        self,
        token_ids: Sequence[int],
        *,
        max_tokens: int,
        sampling: Sampling | None = None,
        images: Sequence[Tensor] = (),
        stop_ids: Sequence[int] | None = None,
        thinking_budget: int | None = None,
    ) -> Iterator[Draw]:
        """As `generate`, with the log-probabilities of every token if the sampling asks for them."""
        thought = self._thought_limit(token_ids, thinking_budget)
        request = self._request(token_ids, max_tokens, sampling or Sampling(), images, stop_ids, thought)
        return _draws(self.worker.stream(request))

    def _request(
        self,
        token_ids: Sequence[int],
        max_tokens: int,
        sampling: Sampling,
        images: Sequence[Tensor],
        stop_ids: Sequence[int] | None,
        thought: ThoughtLimit,
        grammar: Grammar | None = None,
    ) -> GenerationRequest:
        eos_id = self.tokenizer.control.eos
        return GenerationRequest(
            prompt=token_ids,
            max_tokens=max_tokens,
            sampling=sampling,
            thought=lambda: thought,
            grammar=grammar,
            stop_ids=ending_ids(sampling, (eos_id,) if stop_ids is None else stop_ids, eos_id),
            images=images,
        )

    def _thought_limit(self, token_ids: Sequence[int], budget: int | None) -> ThoughtLimit:
        open_id, close_id = self.tokenizer.control.think, self.tokenizer.control.end_think
        return ThoughtLimit(budget, open_id, close_id, is_open=is_thinking(token_ids, open_id, close_id))

    def stream(self, request: ChatRequest) -> "ChatStream":
        """Answer a chat request event by event; the last one is `Finish`. Bad requests raise before the first event."""
        answer, generation, thought = self._prepare(request)
        return ChatStream(_events(answer, self.worker.stream(generation)), thought)

    def _prepare(self, request: ChatRequest) -> tuple[AnswerStream, GenerationRequest, ThoughtLimit]:
        """What reads the answer, what the engine is asked for, and the limit of its thought."""
        prompt = render(self.tokenizer, request)
        limit = min(self.context_length, self.worker.engine.cache_plan.num_tokens)
        room = limit - len(prompt.token_ids)
        if room < 1:
            raise ContextLengthError(
                f"the prompt has {len(prompt.token_ids)} tokens, the limit is {limit} with the answer; shorten it"
            )
        thought = self._thought_limit(prompt.token_ids, request.thinking_budget)
        grammar = self._grammar(request, in_thought=thought.is_open)
        answer = AnswerStream(
            self.tokenizer,
            num_prompt_tokens=len(prompt.token_ids),
            in_thought=thought.is_open,
            stop=request.stop,
            min_tokens=request.sampling.min_tokens,
            ignore_eos=request.sampling.ignore_eos,
        )
        generation = self._request(
            prompt.token_ids,
            room if request.max_tokens is None else request.max_tokens,
            request.sampling,
            [torch.from_numpy(image) for image in prompt.images],
            None,
            thought,
            grammar,
        )
        return answer, generation, thought

    def _grammar(self, request: ChatRequest, *, in_thought: bool) -> Grammar | None:
        """What the request wants its answer to look like; None: nothing."""
        constraint = constraint_of(request)
        if constraint is None:
            return None
        thinking: Thinking = "open" if in_thought else "allowed" if request.effort == "high" else "none"
        return self.compiler.compile(constraint, thinking=thinking)

    async def stream_async(self, request: ChatRequest) -> AsyncIterator[ChatEvent]:
        """`stream` for asyncio. Bad requests raise before the first event; leaving early aborts the answer."""
        answer, generation, _ = self._prepare(request)
        async with aclosing(self.worker.stream_async(generation)) as outputs:
            async for output in outputs:
                for draw in output.draws:
                    for event in answer.push(draw.token_id, draw.logprob, draw.top):
                        yield event
                if output.error is not None:
                    raise output.error
                if answer.is_over:
                    break
        for event in answer.finish():
            yield event

    def answer_all(
        self,
        requests: Sequence[ChatRequest],
        *,
        on_answer: Callable[[int, Answer], None] = lambda index, answer: None,
    ) -> list[Answer]:
        """Answers to many requests, which share the engine; `on_answer` hears of each in order, with its index."""
        answers: list[Answer] = []
        limit = self.engine_config.max_waiting
        for start in range(0, len(requests), limit):
            with ExitStack() as leaving:
                streams = [
                    leaving.enter_context(closing(self.stream(request))) for request in requests[start : start + limit]
                ]
                for stream in streams:
                    answers.append(collect(stream))
                    on_answer(len(answers) - 1, answers[-1])
        return answers

    def chat(
        self,
        messages: str | Sequence[Message],
        *,
        effort: Effort = "none",
        tools: Sequence[Tool] = (),
        tool_choice: ToolChoice = "auto",
        response_format: ResponseFormat | None = None,
        max_tokens: int | None = None,
        thinking_budget: int | None = None,
        temperature: float = 0.0,
        top_p: float = 1.0,
        top_k: int | None = None,
        min_p: float = 0.0,
        seed: int | None = None,
        stop: Sequence[str] = (),
    ) -> Answer:
        """Answer a conversation (or one user message given as text) in one piece."""
        if effort not in EFFORTS:
            raise EffortError(f"unknown effort {effort!r}; choose one of {', '.join(EFFORTS)}")
        request = ChatRequest(
            messages=(Message("user", messages),) if isinstance(messages, str) else tuple(messages),
            tools=tuple(tools),
            tool_choice=tool_choice,
            response_format=response_format,
            effort=effort,
            sampling=Sampling(temperature=temperature, top_p=top_p, top_k=top_k, min_p=min_p, seed=seed),
            max_tokens=max_tokens,
            thinking_budget=thinking_budget,
            stop=(stop,) if isinstance(stop, str) else tuple(stop),
        )
        return collect(self.stream(request))


class ChatStream:
    """An iterator over the events of one answer, as they come; leaving it early ends the answer."""

    def __init__(self, events: Generator[ChatEvent, None, None], thought: ThoughtLimit) -> None:
        self._events, self._thought = events, thought

    def __iter__(self) -> "ChatStream":
        return self

    def __next__(self) -> ChatEvent:
        return next(self._events)

    def answer_now(self) -> None:
        """End the thought with the next token, and let no other begin; from any thread."""
        self._thought.close_now()

    def close(self) -> None:
        """End the answer here."""
        self._events.close()


def _draws(outputs: Stream) -> Generator[Draw, None, None]:
    """The draws of a stream of one sequence; leaving early aborts it."""
    with closing(outputs):
        for output in outputs:
            yield from output.draws
            if output.error is not None:
                raise output.error


def _events(answer: AnswerStream, outputs: Stream) -> Generator[ChatEvent, None, None]:
    with closing(_draws(outputs)) as draws:
        for draw in draws:
            yield from answer.push(draw.token_id, draw.logprob, draw.top)
            if answer.is_over:
                break
    yield from answer.finish()


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
    is_nano = name_or_path == NANO
    path = locate(name_or_path)
    wanted = torch.float32 if is_nano and dtype == "auto" else None if dtype == "auto" else getattr(torch, dtype)
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
    return LLM(str(name_or_path), model, tokenizer, is_nano=is_nano, engine=engine, draft_head=head)


def is_thinking(token_ids: Sequence[int], open_id: int, close_id: int) -> bool:
    """Whether a prompt ends inside an open thought."""
    for token_id in reversed(token_ids):
        if token_id in (open_id, close_id):
            return token_id == open_id
    return False
