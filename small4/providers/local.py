"""A loaded model as a provider: chat request -> tokens -> engine -> tokens -> answer events.

prepare    prompt, grammar, limits                        template.py, compiler.py; never in an event loop
submit     one engine request, a sequence per answer      worker.py
read       tokens to events, answer by answer             answer_stream.py
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, closing
from threading import Lock
from typing import TypeVar

import torch

from small4.chat import EFFORTS, MAX_ANSWERS, TEMPERATURES, AnswerEvent, ChatRequest, FinishReason, ImagePart
from small4.engine.config import EngineConfig
from small4.engine.engine import Engine, GenerationRequest, Output
from small4.engine.sampling_rules import ending_ids
from small4.engine.sequence import Priority
from small4.engine.thought import ThoughtLimit
from small4.engine.watchdog import Watchdog
from small4.engine.worker import Stream, Worker
from small4.errors import CacheTooSmallError, ContextLengthError, ImageError, SamplingError
from small4.grammar.compiler import Compiler
from small4.grammar.constraint import Thinking, constraint_of
from small4.grammar.matcher import Grammar
from small4.grammar.vocabulary import Vocabulary
from small4.model.config import ModelConfig
from small4.model.draft_head import DraftHead
from small4.model.transformer import Transformer
from small4.providers.provider import NANO_NOTE, Ability, Caller, ServedModel
from small4.tokenizer.answer_stream import AnswerStream
from small4.tokenizer.isolated_images import ImageLimits, IsolatedImages
from small4.tokenizer.tekken import Tokenizer
from small4.tokenizer.template import Prompt, render

T = TypeVar("T")

MAX_CONTEXT = 262_144  # tokens that the release answers for
NANO_WIDTH = 256  # at most; it tells a demonstration model, whoever trained it
NOBODY = Caller()

_PRIORITIES = {"interactive": Priority.NORMAL, "batch": Priority.LOW}


class LocalProvider:
    """One loaded model with its tokenizer and its engine; any number of threads and event loops may ask at once."""

    def __init__(
        self,
        name: str,
        network: Transformer,
        tokenizer: Tokenizer,
        *,
        engine: EngineConfig | None = None,
        draft_head: DraftHead | None = None,
        image_limits: ImageLimits | None = None,
    ) -> None:
        self.network = network
        self.draft_head = draft_head
        self.tokenizer = tokenizer
        self.engine_config = engine or EngineConfig()
        self.context_length = min(network.config.max_position_embeddings, MAX_CONTEXT)
        self.is_nano = network.config.dim <= NANO_WIDTH
        self.model = ServedModel(
            name=name,
            context_length=self.context_length,
            abilities=_abilities(network.config),
            # A nano is at its best, and was evaluated, where it takes the likeliest token.
            temperatures=dict.fromkeys(EFFORTS, 0.0) if self.is_nano else TEMPERATURES,
            note=NANO_NOTE if self.is_nano else "",
        )
        self.watchdog = Watchdog(self._make_engine, limit_seconds=self.engine_config.max_step_seconds)
        # Plain requests do not wait behind those with images to decode and grammars to compile.
        self._slow = ThreadPoolExecutor(2, "small4 prepare")
        self._images = IsolatedImages(image_limits)
        self._making = Lock()  # `cached_property` has no lock of its own from Python 3.12 on
        self._compiler: Compiler | None = None

    @property
    def worker(self) -> Worker:
        """The engine's thread; its cache takes memory from the first answer on."""
        return self.watchdog.worker

    @property
    def is_ready(self) -> bool:
        """Whether a request would run now: its engine does not hang, and need not be made again."""
        return self.watchdog.is_ready

    async def stream(self, request: ChatRequest, caller: Caller) -> AsyncGenerator[AnswerEvent, None]:
        """See `Provider.stream`."""
        prepared = await self._aside(request, self.prepare, request, caller)
        async with aclosing(prepared.stream()) as events:
            async for event in events:
                yield event

    async def count_tokens(self, request: ChatRequest) -> int:
        """Tokens of the prompt that the request becomes."""
        return len((await self._aside(request, self._render, request)).token_ids)

    def prepare(self, request: ChatRequest, caller: Caller = NOBODY) -> "PreparedRequest":
        """Everything up to the engine. It may take a second and more: images are decoded, grammars compiled."""
        if not 1 <= request.num_answers <= MAX_ANSWERS:
            raise SamplingError(f"{request.num_answers} answers are asked for; there may be 1 to {MAX_ANSWERS}")
        if _has_images(request) and self.network.config.vision is None:
            raise ImageError(f"{self.model.name} reads no images; send text only or choose a model with a vision tower")
        prompt, worker = self._render(request), self.worker
        room = self._room(len(prompt.token_ids), worker.engine.cache_plan.num_tokens)
        thoughts = [self.thought_limit(prompt.token_ids, request.thinking_budget) for _ in range(request.num_answers)]
        in_thought, eos_id = thoughts[0].is_open, self.tokenizer.control.eos
        generation = GenerationRequest(
            prompt=prompt.token_ids,
            max_tokens=room if request.max_tokens is None else request.max_tokens,
            sampling=request.sampling,
            thought=iter(thoughts).__next__,
            grammar=self._grammar(request, in_thought=in_thought),
            num_sequences=request.num_answers,
            stop_ids=ending_ids(request.sampling, (eos_id,), eos_id),
            images=[torch.from_numpy(image) for image in prompt.images],
            caller=caller.name,
            salt=caller.salt,
            priority=_PRIORITIES[caller.priority],
        )
        answers = [self._answer(request, prompt, in_thought=in_thought) for _ in thoughts]
        full: FinishReason = "context" if request.max_tokens is None else "length"
        return PreparedRequest(worker, generation, thoughts, answers, full)

    def thought_limit(self, token_ids: Sequence[int], budget: int | None) -> ThoughtLimit:
        """The limit of a thought that a prompt may have opened."""
        open_id, close_id = self.tokenizer.control.think, self.tokenizer.control.end_think
        return ThoughtLimit(budget, open_id, close_id, is_open=is_thinking(token_ids, open_id, close_id))

    def _render(self, request: ChatRequest) -> Prompt:
        return render(self.tokenizer, request, self._images.prepare)

    async def _aside(self, request: ChatRequest, work: Callable[..., T], *arguments: object) -> T:
        """Do work for a request beside the event loop."""
        executor = self._slow if _takes_time(request) else None
        return await asyncio.get_running_loop().run_in_executor(executor, work, *arguments)

    def _make_engine(self) -> Engine:
        return Engine(
            self.network,
            self.engine_config,
            context_length=self.context_length,
            num_ids=self.tokenizer.vocab_size,
            draft_head=self.draft_head,
        )

    def _room(self, num_prompt: int, cache_tokens: int) -> int:
        """Tokens that the answer may have."""
        if num_prompt >= self.context_length:
            raise ContextLengthError(
                f"the prompt has {num_prompt} tokens, the limit is {self.context_length} with the answer; shorten it"
            )
        if num_prompt >= cache_tokens:
            raise CacheTooSmallError(
                f"the prompt has {num_prompt} tokens, and the cache holds {cache_tokens} with the answer; "
                "shorten the prompt, or give the cache more (--cache)"
            )
        return min(self.context_length, cache_tokens) - num_prompt

    def _grammar(self, request: ChatRequest, *, in_thought: bool) -> Grammar | None:
        """What the request wants its answers to look like; None: nothing."""
        constraint = constraint_of(request)
        if constraint is None:
            return None
        with self._making:
            if self._compiler is None:
                self._compiler = Compiler(Vocabulary.of(self.tokenizer))
        thinking: Thinking = "open" if in_thought else "allowed" if request.effort == "high" else "none"
        return self._compiler.compile(constraint, thinking=thinking)

    def _answer(self, request: ChatRequest, prompt: Prompt, *, in_thought: bool) -> AnswerStream:
        return AnswerStream(
            self.tokenizer,
            num_prompt_tokens=len(prompt.token_ids),
            in_thought=in_thought,
            stop=request.stop,
            min_tokens=request.sampling.min_tokens,
            ignore_eos=request.sampling.ignore_eos,
        )


class PreparedRequest:
    """One chat request on the engine: what is asked, and how what comes back reads. `full` is why room ran out."""

    def __init__(
        self,
        worker: Worker,
        generation: GenerationRequest,
        thoughts: Sequence[ThoughtLimit],
        answers: Sequence[AnswerStream],
        full: FinishReason,
    ) -> None:
        self.worker = worker
        self.generation = generation
        self._thoughts = thoughts
        self._open = dict(enumerate(answers))
        self._full = full
        self._all_failed = True

    async def stream(self) -> AsyncGenerator[AnswerEvent, None]:
        """Submit, then the events; what the engine refuses is raised before the first one."""
        async with aclosing(self.worker.stream_async(self.generation)) as outputs:
            async for output in outputs:
                for event in self._read(output):
                    yield event
                if not self._open:
                    return

    def start(self) -> Generator[AnswerEvent, None, None]:
        """`stream` for a thread that may wait; what the engine refuses is raised at the call."""
        return self._events(self.worker.stream(self.generation))

    def answer_now(self) -> None:
        """End the thoughts with the next token, and let no other begin; from any thread."""
        for thought in self._thoughts:
            thought.close_now()

    def _events(self, outputs: Stream) -> Generator[AnswerEvent, None, None]:
        with closing(outputs):
            for output in outputs:
                yield from self._read(output)
                if not self._open:
                    return

    def _read(self, output: Output) -> list[AnswerEvent]:
        """The events of one output; raises the error of the last answer where all have failed."""
        sequence, events = output.sequence, []
        answer = self._open.get(sequence.index)
        if answer is None:
            return []  # it has ended in its text, and its sequence will in a moment
        for draw in output.draws:
            events += answer.push(draw.token_id, draw.logprob, draw.top)
            if answer.is_over:
                break
        if answer.is_over or output.finish_reason is not None:
            del self._open[sequence.index]
            self._all_failed = self._all_failed and output.error is not None
            if output.error is not None and self._all_failed and not self._open:
                raise output.error
            reason = self._full if output.finish_reason in (None, "length") else output.finish_reason
            events += answer.finish(reason, num_cached_tokens=sequence.num_shared, error=output.error)
            if output.finish_reason is None:
                self.worker.abort(sequence)
        return [AnswerEvent(sequence.index, event) for event in events]


def _takes_time(request: ChatRequest) -> bool:
    """Whether preparing it may take more than milliseconds."""
    return _has_images(request) or request.response_format is not None or len(request.tools) > 0


def _has_images(request: ChatRequest) -> bool:
    parts = (part for message in request.messages if not isinstance(message.content, str) for part in message.content)
    return any(isinstance(part, ImagePart) for part in parts)


def _abilities(config: ModelConfig) -> frozenset[Ability]:
    abilities: set[Ability] = {"tools", "reasoning", "structured output", "logprobs"}
    return frozenset(abilities if config.vision is None else abilities | {"images"})


def is_thinking(token_ids: Sequence[int], open_id: int, close_id: int) -> bool:
    """Whether a prompt ends inside an open thought."""
    for token_id in reversed(token_ids):
        if token_id in (open_id, close_id):
            return token_id == open_id
    return False
