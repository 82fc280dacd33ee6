"""`small4 show` and `small4 verify`: what a checkpoint is, and whether its bytes can be believed."""

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from small4.checkpoint.describe import Description
    from small4.checkpoint.verify import Report
    from small4.cli.ink import Ink
    from small4.model.config import DraftConfig, ModelConfig

SHOWN_NAMES = 20  # of what is missing; --json has all

Model = Annotated[str, typer.Argument(help="nano, a name that `small4 list` shows, or a path.")]


def show_command(
    model: Model, as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False
) -> None:
    """Tell what a checkpoint is: shape, format, sizes, parameters, and what is missing; no weights are read."""
    from small4.checkpoint.describe import describe
    from small4.cli.ink import Ink
    from small4.hub.names import locate

    description = describe(locate(model))
    if as_json:
        print(json.dumps(description.to_dict()))
        return
    ink = Ink(sys.stdout)
    for name, text in facts(description):
        ink.write(f"{name:<12}", "bold")
        ink.line(text)


def verify_command(
    model: Model, as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False
) -> None:
    """Read a whole checkpoint and check it: headers, names, shapes, digests, and that every weight is a number."""
    from small4.checkpoint.verify import verify
    from small4.cli.ink import Ink
    from small4.hub.names import locate

    path = locate(model)
    err = Ink(sys.stderr)
    if err.is_terminal:
        err.write(f"reading all of {path} ...", "dim")
    try:
        report = verify(path)
    finally:
        err.erase_line()
    if as_json:
        print(json.dumps(report.to_dict()))
    else:
        print_report(report, Ink(sys.stdout), err)
    if not report.is_good:
        raise typer.Exit(2)


def print_report(report: "Report", out: "Ink", err: "Ink") -> None:
    """One line if all is well; what is wrong, or in the way, on standard error."""
    from small4.cli.readable import bytes_text

    for problem in report.problems:
        err.line(f"{problem.where}: {problem.what}")
    for warning in report.warnings:
        err.line(f"warning: {warning}", "label")
    if not report.is_good:
        err.line(f"error: {report.path} has {len(report.problems)} problem(s); fetch or save it again", "error")
        return
    digests = "digests match" if report.has_manifest else "no digests to compare with"
    out.line(
        f"{report.path} is sound: {report.format}, {report.num_tensors} tensors, {bytes_text(report.num_bytes)}, "
        f"{digests}, every weight is a number"
    )


def facts(description: "Description") -> "Iterator[tuple[str, str]]":
    """Everything known about a checkpoint, as name and text."""
    from small4.cli.readable import bytes_text, count_text

    yield "path", str(description.path)
    files = f"{len(description.files)} file(s), {description.num_tensors} tensors"
    yield "format", f"{description.format}, {bytes_text(description.bytes)} in {files}"
    yield "stored as", ", ".join(f"{kind} {bytes_text(size)}" for kind, size in description.bytes_by_type.items())
    yield from shape_facts(description.config)
    active = count_text(description.active_parameters)
    yield "parameters", f"{count_text(description.parameters)}, of which a token meets {active}"
    for component, number in description.parameters_by_component.items():
        yield "", f"{component:<12} {count_text(number):>17}"
    yield "tokenizer", tokenizer_fact(description)
    yield "digests", "in the manifest" if description.has_manifest else "none: there is no manifest"
    for name, what in (
        ("missing", description.missing),
        ("unexpected", description.unexpected),
        ("mismatched", description.mismatched),
    ):
        yield name, _some(what)
    for note in description.notes:
        yield "note", note


def tokenizer_fact(description: "Description") -> str:
    """Whether the model can chat."""
    if description.is_draft:
        return "none needed: a draft head speaks through its target"
    if description.tokenizer_error is None:
        return "tekken.json"
    return f"{'unusable' if description.has_tokenizer else 'none'}, so it cannot chat: {description.tokenizer_error}"


def shape_facts(config: "ModelConfig | DraftConfig") -> "Iterator[tuple[str, str]]":
    """The shape of the network in a few lines."""
    from small4.cli.readable import count_text
    from small4.model.config import DraftConfig

    text = config.text if isinstance(config, DraftConfig) else config
    kind = "draft head" if isinstance(config, DraftConfig) else "model"
    yield "shape", f"{kind} of {text.n_layers} layers of width {text.dim}, {text.n_heads} heads"
    yield (
        "attention",
        f"latent rank {text.kv_lora_rank} for keys and values, {text.q_lora_rank} for queries, "
        f"{text.kv_width} values cached per token and layer",
    )
    if text.moe is not None:
        yield (
            "experts",
            f"{text.moe.num_experts} per layer, {text.moe.num_experts_per_tok} per token and "
            f"{text.moe.num_shared_experts} shared, width {text.moe.expert_hidden_dim}",
        )
    tied = ", tied" if text.tied_embeddings else ""
    yield "vocabulary", f"{count_text(text.vocab_size)}{tied}"
    yield "positions", count_text(text.max_position_embeddings)
    vision = text.vision
    if vision is not None:
        yield (
            "images",
            f"{vision.num_hidden_layers} layers of width {vision.hidden_size}, patches of {vision.patch_size} pixels",
        )
    elif not isinstance(config, DraftConfig):
        yield "images", "none: this model reads text only"


def _some(names: "Sequence[str]") -> str:
    if not names:
        return "nothing"
    more = f", and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    return f"{len(names)}: {', '.join(names[:SHOWN_NAMES])}{more}"
