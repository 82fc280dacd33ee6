"""What one engine may hold and do in a step. No torch, so that settings can read it anywhere."""

from dataclasses import dataclass
from typing import Literal

from small4.errors import ConfigError

HEAD_DRAFTS = 4  # tokens that a draft head guesses ahead where nothing else is said

CacheFormat = Literal["model", "fp8"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """Bounds of an engine; the defaults suit a processor with a few gigabytes to spare."""

    block_size: int = 32  # tokens per cache block; whole blocks are what a prefix can share
    cache_bytes: int | None = None  # memory of the cache; None takes a share of what is free
    cache_format: CacheFormat = "model"  # the model's own type, or fp8 with one scale per row at half of bf16's size
    max_step_tokens: int = 2048  # prefill and decode tokens of one forward pass
    max_running: int = 64  # sequences that take part in a step
    max_waiting: int = 1024  # sequences in the queue; more are refused
    has_prefix_cache: bool = True  # keep blocks of ended sequences for later ones with the same beginning and salt
    max_step_seconds: float | None = 120.0  # a longer step counts as hung, and the engine is replaced; None: never
    is_plain: bool = False  # torch's own operators only, without the kernel library
    max_draft_tokens: int | None = None  # guessed ahead per sequence and step, 0: none; None: 4 with a draft head

    def __post_init__(self) -> None:
        for name in ("block_size", "max_step_tokens", "max_running", "max_waiting"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.max_step_seconds is not None and not self.max_step_seconds > 0:
            raise ConfigError(f"max_step_seconds is {self.max_step_seconds}; it must be above 0, or None for no limit")
        if self.max_draft_tokens is not None and self.max_draft_tokens < 0:
            raise ConfigError(f"max_draft_tokens is {self.max_draft_tokens}; it must be 0 or more")
        if self.max_running > self.max_step_tokens:
            raise ConfigError(
                f"max_running is {self.max_running} and max_step_tokens {self.max_step_tokens}; a step must have "
                "room for one token of every running sequence"
            )

    def num_drafts(self, *, has_head: bool) -> int:
        """Most tokens guessed ahead per sequence and step."""
        if self.max_draft_tokens is None:
            return HEAD_DRAFTS if has_head else 0
        return self.max_draft_tokens
