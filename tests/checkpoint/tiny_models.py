"""Tiny random models, seeded so that every parameter matters (the defaults would make tests blind)."""

import dataclasses

import pytest
import torch

from small4.model.attention import FullAttention
from small4.model.config import DraftConfig, ModelConfig, MoeConfig, QueryScalingConfig, VisionConfig, YarnConfig
from small4.model.draft_head import DraftHead
from small4.model.transformer import Transformer


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    torch.set_num_threads(1)


TEXT = ModelConfig(
    dim=32, n_layers=2, n_heads=2, q_lora_rank=16, kv_lora_rank=16, qk_nope_head_dim=8, qk_rope_head_dim=8,
    v_head_dim=16, hidden_dim=48, vocab_size=64, max_position_embeddings=1024,
    moe=MoeConfig(num_experts=4, num_experts_per_tok=2, expert_hidden_dim=16),
    yarn=YarnConfig(factor=4.0, original_max_position_embeddings=64),
    llama_4_scaling=QueryScalingConfig(beta=0.1, original_max_position_embeddings=64), vision=None,
)  # fmt: skip
VISION = VisionConfig(
    hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, patch_size=4, image_size=32,
    max_image_size=32,
)  # fmt: skip
IMAGES = dataclasses.replace(TEXT, vision=VISION)
TIED = dataclasses.replace(TEXT, tied_embeddings=True)
DENSE_FIRST = dataclasses.replace(TEXT, moe=dataclasses.replace(TEXT.moe, first_k_dense_replace=1))
DRAFT = DraftConfig(text=dataclasses.replace(TEXT, moe=None))


def random_model(config, seed=0, dtype=torch.float32):
    """A model of random weights, scaled so that logits are about 1."""
    torch.manual_seed(seed)
    model = DraftHead(config) if isinstance(config, DraftConfig) else Transformer(config)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            parameter.data = 1 + 0.1 * torch.randn_like(parameter)
        else:
            parameter.data = torch.randn_like(parameter) / parameter[0].numel() ** 0.5
            if name.endswith("gate.weight"):
                parameter.data *= 3
    return model.to(dtype)


@torch.no_grad()
def logits(model, seed=1):
    """Logits of a few random tokens, with an image where the model has eyes."""
    torch.manual_seed(seed)
    tokens = torch.randint(14, model.config.vocab_size, (24,))
    images = []
    if model.config.vision is not None:
        images = [torch.randn(3, 8, 16)]
        tokens[3:5] = model.config.vision.image_token_id
    return model(tokens, torch.arange(24), FullAttention([24]), images)


def parameters(model):
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def same(one, other):
    """Bit for bit."""
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in one
    )
