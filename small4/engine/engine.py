"""The engine: many sequences over one model. Read `Engine.step` first.

    plan    which sequences run how many tokens               scheduler.py
    guess   what may follow, where it pays                    speculative.py
    build   the plan's tensors                                batch.py
    run     the model over the paged cache                    runner.py, paged_attention.py, kv_cache.py
    draw    tokens from logits, draft by draft                steering.py, sampler.py
    update  tokens and counters; ended sequences leave        here

It knows tokens, not text. It is not thread-safe: one thread calls it (`worker.py`).
"""

import hashlib
import os
import time
from collections.abc import Callable
from collections.abc import Sequence as Items
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import torch
from torch import Tensor

from small4.chat import FinishReason, Sampling
from small4.engine.batch import StepBatch, build_batch
from small4.engine.blocks import BlockPool
from small4.engine.config import EngineConfig
from small4.engine.draft_rule import DraftRule
from small4.engine.draft_runner import DraftRunner
from small4.engine.draw_state import DrawState
from small4.engine.kv_cache import PagedCache, plan_cache
from small4.engine.limits import check_ids, check_lengths
from small4.engine.memory import free_bytes
from small4.engine.paged_attention import ABSORB_UP_TO
from small4.engine.prefix_cache import root_key
from small4.engine.prompt_lookup import PromptLookup
from small4.engine.runner import Runner
from small4.engine.sampler import Draw
from small4.engine.sampling_rules import check_sampling
from small4.engine.scheduler import Run, Scheduler
from small4.engine.sequence import Priority, Sequence
from small4.engine.speculative import Speculation
from small4.engine.steering import Grammar, Mask, Steering, draw, masks_of
from small4.engine.thought import ThoughtLimit
from small4.errors import BusyError, CacheTooSmallError, SamplingError
from small4.model.draft_head import DraftHead
from small4.model.transformer import Transformer


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """What the engine is asked for."""

    prompt: Items[int]
    max_tokens: int
    sampling: Sampling = field(default_factory=Sampling)
    thought: Callable[[], ThoughtLimit] | None = None  # makes the budget of each sequence's thought
    grammar: Grammar | None = None  # what the output must look like
    num_sequences: int = 1  # continuations of the one prompt, which is computed once
    stop_ids: frozenset[int] = frozenset()
    images: Items[Tensor] = ()
    caller: str = ""  # callers share the engine fairly
    salt: bytes = b""  # only sequences of one salt share cached prefixes; derive it from the caller's key
    priority: Priority = Priority.NORMAL


@dataclass(frozen=True, slots=True)
class Output:
    """What a step brought one sequence; the last one has a reason, and the error where that is "error"."""

    sequence: Sequence
    draws: Items[Draw] = ()
    finish_reason: FinishReason | None = None
    error: Exception | None = None

    @property
    def tokens(self) -> list[int]:
        return [draw.token_id for draw in self.draws]


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One step, for whoever watches: when, and what ran."""

    began: float  # the engine's clock, seconds
    ended: float
    plan: list[Run]


class Engine:
    """One model, its cache, and the sequences that are under way."""

    def __init__(
        self,
        model: Transformer,
        config: EngineConfig | None = None,
        *,
        context_length: int | None = None,
        num_ids: int | None = None,
        clock: Callable[[], float] = time.monotonic,
        draft_head: DraftHead | None = None,
    ) -> None:
        self.config = config = config or EngineConfig()
        self.model = model
        self.context_length = context_length or model.config.max_position_embeddings
        self.num_ids = num_ids  # only so many first ids are ever drawn; None: all
        dtype = model.tok_embeddings.weight.dtype
        num_drafts = config.num_drafts(has_head=draft_head is not None)
        head = draft_head if num_drafts else None
        head_config = None if head is None else head.config.text
        self.cache_plan = plan_cache(
            model.config, config, dtype, free_bytes(), config.max_running * self.context_length, head_config
        )
        self.scheduler = Scheduler(config, BlockPool(self.cache_plan.num_blocks))
        self.runner = Runner(model, PagedCache(model.config, self.cache_plan, config, dtype), is_plain=config.is_plain)
        self.draft_runner: DraftRunner | None = None
        if head is not None:
            self.draft_runner = DraftRunner(head, self.runner, self.cache_plan, config, num_ids=num_ids)
        self.speculation: Speculation | None = None
        if num_drafts:
            drafter = self.draft_runner or PromptLookup()
            self.speculation = Speculation(drafter, DraftRule(num_drafts), self.scheduler)
        self.clock = clock
        self.observer: Callable[[StepRecord], None] | None = None  # hears of every step
        self.num_submitted = 0
        self.num_steps = 0
        self._beside = ThreadPoolExecutor(1, "small4 masks")  # a grammar's masks are computed while the model runs

    @property
    def num_running(self) -> int:
        return len(self.scheduler.running)

    @property
    def num_waiting(self) -> int:
        return self.scheduler.num_waiting

    @torch.inference_mode()
    def step(self) -> list[Output]:
        """One forward pass over all that the plan holds; what it brought each sequence that drew or ended."""
        began = self.clock()
        plan = self.scheduler.schedule()
        if not plan:
            return []
        if self.speculation is not None:
            plan = self.speculation.extend(plan)
        masks = self._start_masks(plan)
        outputs: list[Output] = []
        for batch, hidden_TD, logits_XW in self._run(build_batch(plan, self.config.block_size, ABSORB_UP_TO), outputs):
            outputs += self._update(batch, hidden_TD, draw(self._drawing(batch), logits_XW, masks()))
        self.num_steps += 1
        ended = self.clock()
        if self.speculation is not None:
            self.speculation.took(plan, ended - began)
        if self.observer is not None:
            self.observer(StepRecord(began, ended, plan))
        return outputs

    def submit(self, request: GenerationRequest) -> list[Sequence]:
        """Take a request into the line, or refuse it with the limit that it breaks."""
        self._check(request)
        root = self._root_key(request)
        steerings = [self._steering(request, index) for index in range(request.num_sequences)]
        sequences: list[Sequence] = []
        for steering in steerings:
            sequence = Sequence(
                id=self.num_submitted,
                tokens=list(request.prompt),
                num_prompt=len(request.prompt),
                max_tokens=request.max_tokens,
                stop_ids=request.stop_ids,
                steering=steering,
                root_key=root,
                caller=request.caller,
                priority=request.priority,
                images=request.images,
                leader=sequences[0] if sequences else None,
            )
            self.num_submitted += 1
            sequences.append(sequence)
        for sequence in sequences:
            self.scheduler.add(sequence)
        return sequences

    def abort(self, sequence: Sequence) -> Output:
        """End a sequence now, wherever it is; its blocks are free at once. One that has ended stays as it is."""
        if sequence.status == "ended":
            return Output(sequence, (), sequence.finish_reason, sequence.error)
        return self._end(sequence, "aborted")

    def fail_all(self, error: Exception) -> list[Output]:
        """End every sequence with an error."""
        return [self._end(sequence, "error", error) for sequence in self.scheduler.all_sequences()]

    def run_to_end(self) -> None:
        """Step until nothing is left to do."""
        while self.num_running or self.num_waiting:
            self.step()

    def _steering(self, request: GenerationRequest, index: int) -> Steering:
        state = DrawState(
            request.sampling,
            vocab_size=self.num_ids or self.model.config.vocab_size,
            prompt_ids=request.prompt,
            stop_ids=request.stop_ids,
            index=index,
        )
        thought = None if request.thought is None else request.thought()
        return Steering(state, thought, None if request.grammar is None else request.grammar.matcher())

    def _start_masks(self, plan: list[Run]) -> Callable[[], dict[int, Mask]]:
        """Begin to compute the masks of grammars beside the forward pass; gives the way to wait for them."""
        if all(run.sequence.steering.matcher is None for run in plan):
            return dict
        return self._beside.submit(masks_of, plan).result

    def _run(self, batch: StepBatch, outputs: list[Output]) -> Items[tuple[StepBatch, Tensor, Tensor]]:
        """Hidden states and logits. Where the pass fails, each run gets its own: only those that fail again end."""
        try:
            hidden_TD, logits_XW = self.runner.run(batch)
            return [(batch, hidden_TD, logits_XW[:, : self.num_ids])]
        except Exception as error:
            if len(batch.runs) == 1:
                outputs.append(self._end(batch.runs[0].sequence, "error", error))
                return []
        singles = (build_batch([run], self.config.block_size, ABSORB_UP_TO) for run in batch.runs)
        return [result for single in singles for result in self._run(single, outputs)]

    def _drawing(self, batch: StepBatch) -> list[tuple[Run, int]]:
        """The runs that draw, each with its first row of the logits."""
        drawing, row = [], 0
        for run in batch.runs:
            if run.draws:
                drawing.append((run, row))
                row += 1 + run.num_drafts
        return drawing

    def _update(self, batch: StepBatch, hidden_TD: Tensor, drawn: dict[int, list[Draw] | Exception]) -> list[Output]:
        """Append what was drawn, count what was computed, and end what is finished."""
        outputs: list[Output] = []
        moved: list[tuple[Sequence, list[Draw], FinishReason | None]] = []
        for run in batch.runs:
            new = drawn.get(run.sequence.id, [])
            if isinstance(new, Exception):
                outputs.append(self._end(run.sequence, "error", new))
            else:
                moved.append((run.sequence, *self._move(run, new)))
        if self.draft_runner is not None:  # while those that end still have their blocks, which others may find
            self.draft_runner.follow(batch, hidden_TD)
        for sequence, new, reason in moved:
            if reason is not None:
                outputs.append(self._end(sequence, reason, draws=new))
            elif new:
                outputs.append(Output(sequence, new))
        return outputs

    def _move(self, run: Run, new: list[Draw]) -> tuple[list[Draw], FinishReason | None]:
        """Append the new tokens up to the sequence's end; what they are then, and why it ends if it does."""
        new, reason = _cut(run.sequence, new)
        run.sequence.tokens += [draw.token_id for draw in new]
        num_accepted = max(0, len(new) - 1) if run.draws else 0
        self.scheduler.computed(run, num_accepted)
        if self.speculation is not None:
            self.speculation.verified(run, num_accepted)
        return new, reason

    def _end(
        self,
        sequence: Sequence,
        reason: FinishReason,
        error: Exception | None = None,
        draws: Items[Draw] = (),
    ) -> Output:
        self.scheduler.end(sequence)
        if self.speculation is not None:
            self.speculation.rule.forget(sequence.id)
        if self.draft_runner is not None:
            self.draft_runner.forget(sequence)
        sequence.finish_reason, sequence.error = reason, error
        sequence.image_rows = None
        return Output(sequence, draws, reason, error)

    def _check(self, request: GenerationRequest) -> None:
        num_tokens = len(request.prompt) + request.max_tokens
        check_lengths(len(request.prompt), request.max_tokens, self.context_length)
        check_ids(request.prompt, self.model.config.vocab_size)
        check_sampling(request.sampling, max_tokens=request.max_tokens)
        if not 1 <= request.num_sequences <= self.config.max_waiting:
            raise SamplingError(f"n is {request.num_sequences}; it must lie in 1 to {self.config.max_waiting}")
        if self.scheduler.blocks_for(num_tokens) > self.cache_plan.num_blocks:
            raise CacheTooSmallError(
                f"the prompt and max_tokens need {num_tokens} tokens of cache, which holds "
                f"{self.cache_plan.num_tokens}; shorten the prompt, lower max_tokens, or give the cache more (--cache)"
            )
        if self.num_waiting + request.num_sequences > self.config.max_waiting:
            raise BusyError(f"{self.num_waiting} sequences wait already, the limit is {self.config.max_waiting}; retry")

    def _root_key(self, request: GenerationRequest) -> bytes:
        salt = request.salt if self.config.has_prefix_cache else os.urandom(16)  # then only its own sequences share
        return root_key(salt, [_digest(image) for image in request.images])


def _digest(image: Tensor) -> bytes:
    """Tells images apart, by shape and every byte."""
    data = image.contiguous().view(torch.uint8).numpy().tobytes()
    return hashlib.blake2b(repr(tuple(image.shape)).encode() + data).digest()


def _cut(sequence: Sequence, new: list[Draw]) -> tuple[list[Draw], FinishReason | None]:
    """The drawn tokens up to the sequence's end, and the reason where it ends there."""
    for count, drawn in enumerate(new, 1):
        if drawn.token_id in sequence.stop_ids:
            return new[:count], "stop"
        if sequence.num_output + count >= sequence.max_tokens:
            return new[:count], "length"
    return new, None
