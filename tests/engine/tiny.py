"""A small model with far-apart logits, and prompts for it."""

from random import Random

import torch

from small4.model.transformer import Transformer
from small4.train.optim import initialise
from small4.train.presets import preset


def tiny_model(seed: int = 3) -> Transformer:
    """The test preset's shape; greedy choices do not hang on rounding."""
    config = preset("test").model
    model = Transformer(config)
    initialise(model, config.n_layers, seed=seed)
    with torch.no_grad():
        model.tok_embeddings.weight.mul_(8.0)
    return model.requires_grad_(False)


def random_prompt(rng: Random, length: int, num_ids: int = 3072) -> list[int]:
    return [rng.randrange(num_ids) for _ in range(length)]
