"""How tokens are drawn, as the options of `run` and `chat` say it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from small4.chat import Effort, Sampling
from small4.engine.sampling_rules import check_sampling


@dataclass(frozen=True, slots=True)
class Drawing:
    """A sampling; where no temperature was given, the model's own for the effort takes its place."""

    sampling: Sampling = field(default_factory=Sampling)
    has_temperature: bool = False

    def at(self, effort: Effort, temperatures: Mapping[Effort, float]) -> Sampling:
        """The sampling at an effort, for a model that is recommended to run at these temperatures."""
        return self.sampling if self.has_temperature else replace(self.sampling, temperature=temperatures[effort])


def check_drawing(
    *,
    temperature: float | None,
    top_p: float,
    top_k: int | None,
    min_p: float,
    seed: int | None,
    repetition_penalty: float,
    presence_penalty: float,
    frequency_penalty: float,
    logprobs: int | None = None,
) -> Drawing:
    """What the options ask for, or what is wrong with them."""
    sampling = Sampling(
        temperature=0.0 if temperature is None else temperature,
        top_p=top_p,
        top_k=top_k,
        min_p=min_p,
        seed=seed,
        repetition_penalty=repetition_penalty,
        presence_penalty=presence_penalty,
        frequency_penalty=frequency_penalty,
        logprobs=logprobs,
    )
    check_sampling(sampling)
    return Drawing(sampling, temperature is not None)
