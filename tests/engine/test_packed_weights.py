"""With packed weights too, every sequence gets the tokens of the naive generator over the same packed model."""

from dataclasses import replace
from random import Random

import pytest
import torch

from small4.engine.config import EngineConfig
from small4.engine.engine import Engine, GenerationRequest
from small4.kernels.ops import backend
from small4.kernels.quantized import Kind
from small4.model.quantize import quantize_model
from small4.model.transformer import Transformer
from small4.train.optim import initialise
from small4.train.presets import NANO_SHAPE
from tests import naive
from tests.engine.tiny import random_prompt


def packed_model(kind: Kind, is_plain: bool) -> Transformer:
    config = replace(NANO_SHAPE, n_layers=2)
    model = Transformer(config)
    initialise(model, config.n_layers, seed=5)
    with torch.no_grad():
        model.tok_embeddings.weight.mul_(8.0)
    model.eval().requires_grad_(False)
    quantize_model(model, kind, backend(native=not is_plain), min_int4_columns=0)
    return model


@pytest.mark.parametrize("is_plain", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_packed_weights_give_their_own_naive_tokens(kind: Kind, is_plain: bool) -> None:
    model, rng = packed_model(kind, is_plain), Random(3)
    config = EngineConfig(block_size=8, cache_bytes=2**20, max_step_tokens=32, max_running=4, is_plain=is_plain)
    engine = Engine(model, config, context_length=256)
    base = random_prompt(rng, 30)
    prompts = [base, base[:20] + random_prompt(rng, 30), random_prompt(rng, 3), random_prompt(rng, 5) * 4]
    sequences = [engine.submit(GenerationRequest(prompt=prompt, max_tokens=10))[0] for prompt in prompts]
    engine.run_to_end()
    for prompt, sequence in zip(prompts, sequences, strict=True):
        assert sequence.output == naive.generate(model, prompt, max_tokens=10)
