"""What a model list tells of one model, before a dialect gives it its shape."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelEntry:
    """A model that is served."""

    id: str
    name: str  # for people
    created: int  # seconds since 1970
    owner: str
    context_length: int  # tokens of prompt and answer together
    max_tokens: int  # of one answer
    description: str = ""
    aliases: tuple[str, ...] = ()  # other ids that mean the same model
    has_images: bool = True
    has_tools: bool = True
    has_reasoning: bool = True
    default_temperature: float | None = None
