"""AdamW and Muon over one model, and the warm-up, stable, decay schedule.

Muon moves a matrix by its momentum made orthogonal: five Newton-Schulz rounds of X <- aX + (bA + cA^2)X, A = X X^T,
drive all singular values towards one; scaled by 0.2 sqrt(max(rows, columns)) the step is as large as AdamW's
(arXiv 2502.16982). Expert stacks [E, rows, columns] are orthogonalised per expert. Embeddings, gates, norms and the
image path stay with AdamW.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from small4.errors import ConfigError
from small4.train.presets import OptimConfig

TOWER = ("vision_encoder", "patch_merger", "pre_mm_projector_norm", "vision_language_adapter")
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised, for matrices and stacks of matrices."""

    def __init__(self, params: Iterable[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                momentum = state.setdefault("momentum", torch.zeros_like(parameter))
                momentum.mul_(group["momentum"]).add_(parameter.grad)
                nesterov = parameter.grad + group["momentum"] * momentum
                scale = 0.2 * max(parameter.shape[-2:]) ** 0.5
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(orthogonalise(nesterov), alpha=-group["lr"] * scale)


def orthogonalise(matrix: Tensor, rounds: int = 5) -> Tensor:
    """Nearest semi-orthogonal matrix, roughly: singular values land near 1. Works on [..., rows, columns]."""
    a, b, c = NEWTON_SCHULZ
    wide = matrix if matrix.shape[-2] <= matrix.shape[-1] else matrix.mT
    x = wide / (wide.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(rounds):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    result: Tensor = x if wide is matrix else x.mT
    return result


def make_optimizers(model: nn.Module, config: OptimConfig) -> list[torch.optim.Optimizer]:
    """One optimiser, or two where Muon takes the inner matrices; each group remembers its full rate as `peak`."""
    if config.name not in ("adamw", "muon"):
        raise ConfigError(f"unknown optimiser {config.name!r}; there are adamw and muon")
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    tower = {id(p) for name, p in named if name.startswith(TOWER)}
    vectors = [p for _, p in named if p.ndim < 2]
    matrices = [p for _, p in named if p.ndim >= 2]
    muon: list[Tensor] = []
    if config.name == "muon":
        outer = ("tok_embeddings", "output", "gate.weight", *TOWER)
        muon = [p for name, p in named if p.ndim >= 2 and not any(part in name for part in outer)]
        matrices = [p for p in matrices if not any(p is m for m in muon)]
    adamw = torch.optim.AdamW(
        [
            *_by_rate(matrices, tower, config, {"weight_decay": config.weight_decay}),
            *_by_rate(vectors, tower, config, {"weight_decay": 0.0}),
        ],
        lr=config.learning_rate,
        betas=config.betas,
        fused=True,
    )
    optimizers: list[torch.optim.Optimizer] = [adamw]
    if muon:
        optimizers.append(Muon(muon, lr=config.muon_learning_rate, weight_decay=config.weight_decay))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return optimizers


def _by_rate(
    parameters: Sequence[Tensor], tower: set[int], config: OptimConfig, settings: dict[str, Any]
) -> list[dict[str, Any]]:
    """A group for the text, and one for the image path where there is one."""
    text = [parameter for parameter in parameters if id(parameter) not in tower]
    seeing = [parameter for parameter in parameters if id(parameter) in tower]
    groups: list[dict[str, Any]] = [{"params": text, **settings}]
    if seeing:
        groups.append({"params": seeing, "lr": config.learning_rate * config.tower_share, **settings})
    return groups


def rate_share(config: OptimConfig, step: int, steps: int) -> float:
    """Share of the full rate at a step: up in a line, level, down in a line."""
    warmup, decay = max(1, round(config.warmup_share * steps)), max(1, round(config.decay_share * steps))
    falling = (steps - step) / decay
    return max(config.final_share, min(1.0, (step + 1) / warmup, falling))


def set_rate(optimizers: list[torch.optim.Optimizer], share: float) -> None:
    """Scale every group's rate to a share of its peak."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * share


@torch.no_grad()
def initialise(model: nn.Module, num_layers: int, seed: int) -> None:
    """Fan-in scaled normal weights; what writes to the residual stream is shrunk by sqrt(2 layers); gates start small.

    The usual 0.02 is made for widths over a thousand: at width 128 attention would start almost uniform.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2:
            parameter.fill_(1.0)
            continue
        fan_in = parameter[0].numel() if parameter.ndim == 4 else parameter.shape[-1]  # of a convolution, of a matrix
        std = fan_in**-0.5
        if name.endswith("gate.weight"):
            std = 0.02
        elif name.startswith("tok_embeddings"):
            std = 0.04
        elif name == "vision_language_adapter.w_out.weight":
            std /= 10  # rows of an image enter the text about as large as those of tokens
        elif name.endswith(("wo.weight", "w2", "w2.weight")):
            std /= (2 * num_layers) ** 0.5
        parameter.normal_(0.0, std, generator=generator)
