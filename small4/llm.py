"""`LLM`: load a model, then score, generate and chat from a Python script, without a server.

model = small4.load("nano")
print(model.chat("17+48+36+25", effort="high").text)
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from small4.answer import Answer, collect
from small4.chat import (
    EFFORTS,
    ChatEvent,
    ChatRequest,
    Effort,
    Finish,
    FinishReason,
    Message,
    Sampling,
    Tool,
    Usage,
)
from small4.checkpoint.digests import KnownDigests
from small4.checkpoint.load import build_model, compare_digests, model_config, open_checkpoint
from small4.checkpoint.tokenizer_file import check_vocabulary, load_tokenizer
from small4.engine.generator import ThoughtLimit, check_ids, check_lengths, generate
from small4.errors import ConfigError, ContextLengthError, EffortError
from small4.hub.names import NANO, locate
from small4.model.attention import FullAttention
from small4.model.config import ModelConfig
from small4.model.transformer import Transformer
from small4.tokenizer.output import OutputParser
from small4.tokenizer.tekken import Tokenizer
from small4.tokenizer.template import render

MAX_CONTEXT = 262_144  # tokens that the release answers for
THINK_OPEN, THINK_CLOSE, END = "[THINK]", "[/THINK]", "</s>"


class LLM:
    """One loaded model with its tokenizer. Not safe for calls from several threads at once."""

    def __init__(self, name: str, model: Transformer, tokenizer: Tokenizer, *, is_nano: bool = False) -> None:
        check_vocabulary(tokenizer, model.config)
        self.name = name
        self.model = model
        self.tokenizer = tokenizer
        self.is_nano = is_nano

    @property
    def config(self) -> ModelConfig:
        return self.model.config

    @property
    def context_length(self) -> int:
        """Tokens of prompt and answer together."""
        return min(self.config.max_position_embeddings, MAX_CONTEXT)

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
        limit = None
        if thinking_budget is not None:
            open_id, close_id = self.tokenizer.special_id(THINK_OPEN), self.tokenizer.special_id(THINK_CLOSE)
            limit = ThoughtLimit(thinking_budget, open_id, close_id, is_open=is_thinking(token_ids, open_id, close_id))
        return generate(
            self.model,
            token_ids,
            max_tokens=max_tokens,
            context_length=self.context_length,
            sampling=sampling or Sampling(),
            images=images,
            stop_ids=(self.tokenizer.special_id(END),) if stop_ids is None else stop_ids,
            thought_limit=limit,
            num_ids=self.tokenizer.vocab_size,
        )

    def stream(self, request: ChatRequest) -> Iterator[ChatEvent]:
        """Answer a chat request event by event; the last one is `Finish`. Bad requests raise before the first event."""
        prompt = render(self.tokenizer, request)
        room = self.context_length - len(prompt.token_ids)
        if room < 1:
            raise ContextLengthError(
                f"the prompt has {len(prompt.token_ids)} tokens, the limit is {self.context_length} with the answer; "
                "shorten it"
            )
        tokens = self.generate(
            prompt.token_ids,
            max_tokens=room if request.max_tokens is None else request.max_tokens,
            sampling=request.sampling,
            images=[torch.from_numpy(image) for image in prompt.images],
            thinking_budget=request.thinking_budget,
        )
        return self._events(prompt.token_ids, tokens)

    def chat(
        self,
        messages: str | Sequence[Message],
        *,
        effort: Effort = "none",
        tools: Sequence[Tool] = (),
        max_tokens: int | None = None,
        thinking_budget: int | None = None,
        temperature: float = 0.0,
        top_p: float = 1.0,
        top_k: int | None = None,
        min_p: float = 0.0,
        seed: int | None = None,
    ) -> Answer:
        """Answer a conversation (or one user message given as text) in one piece."""
        if effort not in EFFORTS:
            raise EffortError(f"unknown effort {effort!r}; choose one of {', '.join(EFFORTS)}")
        request = ChatRequest(
            messages=(Message("user", messages),) if isinstance(messages, str) else tuple(messages),
            tools=tuple(tools),
            effort=effort,
            sampling=Sampling(temperature=temperature, top_p=top_p, top_k=top_k, min_p=min_p, seed=seed),
            max_tokens=max_tokens,
            thinking_budget=thinking_budget,
        )
        return collect(self.stream(request))

    def _events(self, prompt_ids: Sequence[int], tokens: Iterator[int]) -> Iterator[ChatEvent]:
        open_id, close_id = self.tokenizer.special_id(THINK_OPEN), self.tokenizer.special_id(THINK_CLOSE)
        parser = OutputParser(self.tokenizer, in_thought=is_thinking(prompt_ids, open_id, close_id))
        completed = 0
        reason: FinishReason = "length"
        for token_id in tokens:
            completed += 1
            if token_id == self.tokenizer.special_id(END):
                reason = "stop"
                break
            yield from parser.push(token_id)
        yield from parser.finish()
        if reason == "stop" and parser.num_calls:
            reason = "tool_calls"
        yield Finish(reason, Usage(len(prompt_ids), completed, parser.num_reasoning_tokens))


def load(name_or_path: str | Path, *, dtype: str = "auto", check_digests: bool = True) -> LLM:
    """Load "nano" (shipped), a checkpoint directory or file, or a model pulled before.

    `dtype` is "auto" (float32 for nano, else as stored, quantised weights as bfloat16), "bfloat16" or "float32".
    `check_digests` compares the files with the manifest of the save, if there is one; a large file is read for that
    once, and again only after it has changed.
    """
    if dtype not in ("auto", "bfloat16", "float32"):
        raise ConfigError(f"unknown dtype {dtype!r}; choose auto, bfloat16 or float32")
    is_nano = name_or_path == NANO
    path = locate(name_or_path)
    wanted = torch.float32 if is_nano and dtype == "auto" else None if dtype == "auto" else getattr(torch, dtype)
    checkpoint = open_checkpoint(path)
    tokenizer = load_tokenizer(path, model_config(checkpoint))  # before the weights, which may take minutes
    if check_digests:
        compare_digests(checkpoint, KnownDigests.of_user())
    model = build_model(checkpoint, dtype=wanted).eval().requires_grad_(False)
    return LLM(str(name_or_path), model, tokenizer, is_nano=is_nano)


def is_thinking(token_ids: Sequence[int], open_id: int, close_id: int) -> bool:
    """Whether a prompt ends inside an open thought."""
    for token_id in reversed(token_ids):
        if token_id in (open_id, close_id):
            return token_id == open_id
    return False
