"""A model without memory: its parameters have names and shapes only, until `load.py` gives them their tensors."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from small4.checkpoint.stored import Config
from small4.model.config import DraftConfig
from small4.model.draft_head import DraftHead
from small4.model.rope import rope_frequencies
from small4.model.transformer import Transformer

Shape = tuple[int, ...]


class _WithoutInitialValues(TorchFunctionMode):
    """Skips `torch.nn.init`: on tensors without memory it does nothing, after importing half of torch's compiler."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


def blank_model(config: Config) -> nn.Module:
    """A `Transformer` or `DraftHead` whose parameters are on the meta device."""
    with torch.device("meta"), _WithoutInitialValues():
        model = DraftHead(config) if isinstance(config, DraftConfig) else Transformer(config)
    # No parameter, so no file gives it back: it must be real from the start.
    model.frequencies_R = rope_frequencies(config.text if isinstance(config, DraftConfig) else config)
    return model


@lru_cache(maxsize=4)
def parameter_shapes(config: Config) -> dict[str, Shape]:
    """Every parameter of the model with its shape, in the model's order."""
    return {name: tuple(parameter.shape) for name, parameter in blank_model(config).named_parameters()}
