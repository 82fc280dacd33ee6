"""Plots of a training run, written as PNG."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

from small4.train.state import Progress


def plot_loss(progress: Progress, tokens_per_step: float, path: Path, title: str) -> None:
    """Cross-entropy against tokens seen, on a logarithmic loss axis."""
    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    axes.plot([step * tokens_per_step / 1e6 for step, _ in progress.losses], [loss for _, loss in progress.losses])
    axes.set(xlabel="million tokens", ylabel="cross-entropy of assistant tokens", title=title, yscale="log")
    axes.grid(alpha=0.3, which="both")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
