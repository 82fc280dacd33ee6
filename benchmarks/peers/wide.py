"""A model whose rows are long enough for every four-bit format: python -m benchmarks.peers.wide trains it.

The nano's tasks and vocabulary, twice its width, three layers, 128,000 tokens: it is to have real weights, not to be
good. The checkpoint stays in the user's cache; a training that was cut off goes on.
"""

import dataclasses
from pathlib import Path

import torch

from benchmarks.peers.environment import cache
from small4.checkpoint.save import save_model
from small4.model.config import MoeConfig
from small4.tokenizer.tekken import Tokenizer
from small4.train.data import NANO_TEKKEN
from small4.train.loop import Report, train
from small4.train.presets import NANO_MIX, NANO_SHAPE, TrainConfig

WIDE = TrainConfig(
    preset="wide",
    model=dataclasses.replace(
        NANO_SHAPE,
        dim=256,
        n_layers=3,
        q_lora_rank=256,
        kv_lora_rank=256,
        qk_nope_head_dim=32,
        qk_rope_head_dim=32,
        v_head_dim=64,
        hidden_dim=512,
        moe=MoeConfig(num_experts=8, num_experts_per_tok=2, expert_hidden_dim=256),
    ),
    mix=NANO_MIX,
    steps=200,
    tokens_per_step=640,
    save_every=20,
)


def checkpoint() -> Path:
    """Where the trained model lies, or will lie."""
    return run_directory() / "checkpoint"


def run_directory() -> Path:
    return cache() / "wide"


def main() -> None:
    run = run_directory()
    run.mkdir(exist_ok=True)
    is_begun = any(run.glob("state-*"))
    model, _ = train(WIDE, Tokenizer.from_file(NANO_TEKKEN), run, resume=is_begun, on_report=tell)
    save_model(model.to(torch.bfloat16), checkpoint(), format="hf-bf16")
    print(checkpoint())


def tell(report: Report) -> None:
    print(
        f"step {report.step} of {report.steps}: loss {report.loss:.3f}, {report.tokens_per_second:.0f} tokens/s",
        flush=True,
    )


if __name__ == "__main__":
    main()
