"""`small4 train nano`, `small4 train draft` and `small4 eval nano`: make a nano or its draft head, and measure one."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from small4.cli import options

if TYPE_CHECKING:
    from collections.abc import Callable

    from small4.cli.ink import Ink
    from small4.llm import LLM
    from small4.train.evaluate import Score
    from small4.train.loop import Report
    from small4.train.suites import Contamination

SCORE_HEADER = ("skill", "effort", "n", "accuracy", "95 % interval", "thinking", "answer", "unfinished")


def train_command(
    what: Annotated[str, typer.Argument(help="nano, or draft: the draft head of one.")],
    preset: Annotated[str, typer.Option(help="A named configuration; an unknown name lists them.")] = "first",
    out: Annotated[
        Path | None, typer.Option(help="Directory for states and checkpoint; ./nano-PRESET by default.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights and data; the preset's own by default.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where an earlier run in the directory stopped.")
    ] = False,
    threads: Annotated[int | None, typer.Option(help="CPU threads; all by default.")] = None,
    n: Annotated[int, typer.Option("--n", help="Held-out problems per skill and effort; 0: no evaluation.")] = 500,
    suites: Annotated[list[str] | None, typer.Option("--suite", help="A skill to evaluate; repeatable.")] = None,
    target: Annotated[str, typer.Option(help="With draft: the nano that the head is for.")] = "nano",
    steps: Annotated[int | None, typer.Option(help="How many; the preset's own by default, 3000 with draft.")] = None,
    leg_minutes: Annotated[
        float | None, typer.Option(help="Save and stop after so many minutes; the same command with --resume goes on.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; an accelerator where there is one.")] = None,
    compiles: Annotated[bool, typer.Option("--compile", help="Compile the blocks, for an accelerator.")] = False,
    data_processes: Annotated[
        int | None, typer.Option(help="That make data ahead; with an accelerator one per core but two, else 0.")
    ] = None,
) -> None:
    """Train a nano from nothing: small4 train nano --preset first. Then its draft head: small4 train draft."""
    if what == "draft":
        if resume:
            from small4.errors import ConfigError

            raise ConfigError("the training of a draft head is not resumed; start it again without --resume")
        return train_draft_head(target, out or Path("draft-head"), preset, seed or 0, steps, threads, n, suites)
    _only_nano(what, "train")
    if n < 0 or (threads is not None and threads < 1) or (steps is not None and steps < 1):
        from small4.errors import ConfigError

        raise ConfigError(f"n is {n}, threads is {threads} and steps is {steps}; n must be at least 0, the others 1")
    from small4.cli.ink import Ink
    from small4.train.machine import machine_of
    from small4.train.run import train_nano

    err, scores = Ink(sys.stderr), list["Score"]()
    out = out or Path(f"nano-{preset}")
    machine = machine_of(device, compiles=compiles, data_processes=data_processes, leg_minutes=leg_minutes)
    try:
        checkpoint = train_nano(
            preset,
            out,
            _examinee,
            seed=seed,
            steps=steps,
            resume=resume,
            threads=threads,
            machine=machine,
            n=n,
            suites=suites,
            on_report=_report_printer(err),
            on_score=lambda score: _count_scores(scores, score, err),
        )
    except KeyboardInterrupt:
        err.line()
        err.line(f"stopped; the last saved state is in {out}. Go on with the same command and --resume")
        raise typer.Exit(130) from None
    err.erase_line()
    if checkpoint is None:
        err.line(f"the leg is over; the state is in {out}. Go on with the same command and --resume")
        return
    if scores:
        print_scores(scores)
    print(f"checkpoint: {checkpoint}")
    print(f"talk to it: small4 chat {checkpoint}")


def train_draft_head(
    target: str,
    out: Path,
    preset: str,
    seed: int,
    steps: int | None,
    threads: int | None,
    n: int,
    suites: list[str] | None,
) -> None:
    """Train a head, and print what its guesses are worth."""
    from dataclasses import replace

    import torch

    from small4.cli.ink import Ink
    from small4.hub.names import locate
    from small4.train.draft import DRAFT_SUITES, DraftTrainConfig, train_draft_for

    config = DraftTrainConfig(preset=preset, seed=seed)
    config = config if steps is None else replace(config, steps=steps)
    if threads is not None:
        torch.set_num_threads(threads)
    err = Ink(sys.stderr)

    def show(step: int, loss: float) -> None:
        if step % 100 == 0 or step == config.steps:
            err.line(f"step {step}/{config.steps}  loss {loss:.4f}")

    directory, scores = train_draft_for(locate(target), out, config, suites=suites or DRAFT_SUITES, n=n, on_loss=show)
    Ink(sys.stdout).table(
        ("skill", "tokens per step", "drafts right"),
        [(score.skill, f"{score.accepted_length:.2f}", f"{100 * score.share:.1f} %") for score in scores],
    )
    print(f"draft head: {directory}")
    print(f"guess with it: small4 run {target} --draft {directory}")


def eval_command(
    model: Annotated[
        str, typer.Argument(help="nano, or the path of a checkpoint made by `small4 train nano`.")
    ] = "nano",
    suites: Annotated[
        list[str] | None, typer.Option("--suite", help="A skill; repeatable. Those of its training by default.")
    ] = None,
    efforts: Annotated[
        list[str] | None, typer.Option("--effort", "-e", metavar="none|high", help="Repeatable. Both by default.")
    ] = None,
    n: Annotated[
        int | None, typer.Option("--n", help="Held-out problems per skill and effort; 500 by default.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="20 problems each: a look, not a measurement.")] = False,
    thinking_budget: Annotated[
        int | None, typer.Option(help="Close every thought after so many tokens.", min=0)
    ] = None,
    quant: options.Quant = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print scores and contamination as JSON.")] = False,
) -> None:
    """Ask a nano held-out problems through the chat template; print accuracy and tokens by skill and effort."""
    from small4.chat import EFFORTS
    from small4.cli.ink import Ink
    from small4.cli.request import parse_effort, parse_quant
    from small4.hub.names import locate

    wanted = [parse_effort(effort) for effort in efforts] if efforts else EFFORTS
    where = locate(model)
    from small4.llm import load
    from small4.train.evaluate import ENGINE, QUICK_N, evaluate
    from small4.train.run import evaluation_record
    from small4.train.suites import check_suites, contamination, default_suites

    n = n if n is not None else QUICK_N if quick else 500
    check_suites(suites or (), n)
    llm = load(where, dtype="float32", quant=parse_quant(quant), engine=ENGINE)
    err, scores = Ink(sys.stderr), list["Score"]()
    if suites is None:
        has_vision = llm.config.vision is not None
        chosen, note = default_suites(where, has_vision=has_vision, context_length=llm.context_length)
        suites = list(chosen)
        if note:
            err.line(note)
    evaluate(
        llm,
        suites=suites,
        efforts=wanted,
        n=n,
        thinking_budget=thinking_budget,
        on_score=lambda score: _count_scores(scores, score, err),
    )
    found = contamination(suites, n)
    err.erase_line()
    if as_json:
        print(json.dumps(evaluation_record(scores, found)))
        return
    print_scores(scores)
    print(contamination_text(found))


def contamination_text(found: "Contamination") -> str:
    """One line on whether training has seen what was asked."""
    text = f"{found.asked} different problems, {found.seen} of them among {found.drawn} drawn as training draws"
    if found.not_held_out:
        text += f"; not held out: {', '.join(found.not_held_out)}"
    return text


def print_scores(scores: "list[Score]") -> None:
    """The table of an evaluation, on standard output."""
    from small4.cli.ink import Ink

    Ink(sys.stdout).table(
        SCORE_HEADER,
        [
            (
                score.skill + (" with grammar" if score.grammar else ""),
                score.effort,
                str(score.n),
                f"{100 * score.accuracy:.1f} %",
                f"{100 * score.low:.1f} to {100 * score.high:.1f} %",
                f"{score.mean_thinking_tokens:.1f}",
                f"{score.mean_answer_tokens:.1f}",
                str(score.unfinished),
            )
            for score in scores
        ],
    )


def progress_text(report: "Report") -> str:
    """One line on a running training."""
    from small4.cli.readable import duration_text

    return (
        f"step {report.step}/{report.steps}  loss {report.loss:.4f}  {report.tokens_per_second:,.0f} tok/s  "
        f"expert load {report.max_load:.2f}  {duration_text(report.seconds_left)} left"
    )


def _examinee(checkpoint: Path) -> "LLM":
    """What a finished training examines; loaded then, since a training without examination needs no grammar."""
    from small4.llm import load
    from small4.train.evaluate import ENGINE

    return load(checkpoint, dtype="float32", engine=ENGINE)


def _report_printer(err: "Ink") -> "Callable[[Report], None]":
    """A moving line in a terminal; elsewhere a line per hundredth, so that a log stays readable."""
    told: set[int] = set()

    def show(report: "Report") -> None:
        if err.is_terminal:
            err.erase_line()
            err.write(progress_text(report))
            if report.step == report.steps:
                err.line()
        elif (hundredth := 100 * report.step // report.steps) not in told:
            told.add(hundredth)
            err.line(progress_text(report))

    return show


def _count_scores(scores: "list[Score]", score: "Score", err: "Ink") -> None:
    scores.append(score)
    if err.is_terminal:
        err.erase_line()
        err.write(f"asked: {score.skill}, effort {score.effort}: {100 * score.accuracy:.1f} %", "dim")


def _only_nano(what: str, verb: str) -> None:
    from small4.errors import ConfigError

    if what != "nano":
        raise ConfigError(
            f"small4 cannot {verb} {what!r}; it can: small4 {verb} nano" + (" or draft" if verb == "train" else "")
        )
