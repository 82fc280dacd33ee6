"""`small4 chat`: a conversation in the terminal; without one, a single demonstration."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from small4.cli import options

if TYPE_CHECKING:
    from small4.cli.ink import Ink
    from small4.cli.repl import Repl, Settings
    from small4.cli.request import Wishes
    from small4.cli.speaker import Speaker

DEMONSTRATION = "17+48+36+25"


def chat_command(
    model: Annotated[
        str | None, typer.Argument(help="nano, a name that `small4 list` shows, or a path. Left out: nano.")
    ] = None,
    system: options.System = None,
    images: options.Images = None,
    effort: options.EffortWord = None,
    budget: options.Budget = None,
    temperature: options.Temperature = None,
    top_p: options.TopP = 1.0,
    top_k: options.TopK = None,
    min_p: options.MinP = 0.0,
    seed: options.Seed = None,
    repetition_penalty: options.RepetitionPenalty = 1.0,
    presence_penalty: options.PresencePenalty = 0.0,
    frequency_penalty: options.FrequencyPenalty = 0.0,
    max_tokens: options.MaxTokens = None,
    route: options.RouteWord = None,
    dialect: options.DialectWord = None,
    hide_reasoning: options.HideReasoning = False,
    cache: options.Cache = None,
    quant: options.Quant = None,
    draft: options.Draft = None,
    skip_digests: options.SkipDigests = False,
) -> None:
    """Talk to a model; /help inside lists the commands. Without a terminal it answers one demonstration question."""
    from contextlib import ExitStack

    from small4.cli.drawing import check_drawing
    from small4.cli.hosted_speaker import check_route, hosted_speaker
    from small4.cli.request import check_wishes, parse_quant, parse_size
    from small4.cli.speaker import load_speaker
    from small4.hub.names import NANO

    check_route(route, dialect, {"--cache": cache, "--quant": quant, "--draft": draft, "--skip-digests": skip_digests})

    drawing = check_drawing(
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        min_p=min_p,
        seed=seed,
        repetition_penalty=repetition_penalty,
        presence_penalty=presence_penalty,
        frequency_penalty=frequency_penalty,
    )
    wishes = check_wishes(
        effort=effort, system=system, images=images, budget=budget, max_tokens=max_tokens, drawing=drawing
    )
    with ExitStack() as leaving:
        if route is not None:
            speaker: Speaker = leaving.enter_context(hosted_speaker(route, model, dialect))
        else:
            speaker = load_speaker(
                model or NANO,
                check_digests=not skip_digests,
                cache_bytes=parse_size(cache),
                quant=parse_quant(quant),
                draft=draft,
            )
        talk(speaker, wishes, hide_reasoning=hide_reasoning)


def talk(speaker: "Speaker", wishes: "Wishes", *, hide_reasoning: bool) -> None:
    """A conversation, or what stands for one where nobody can type."""
    from small4.cli.ink import Ink
    from small4.cli.repl import Repl, Settings
    from small4.cli.speaker import default_effort

    settings = Settings(
        effort=wishes.effort or default_effort(speaker),
        system=wishes.system,
        budget=wishes.budget,
        max_tokens=wishes.max_tokens,
        drawing=wishes.drawing,
        hide_reasoning=hide_reasoning,
        has_memory=not speaker.is_nano,  # it learned from single questions and loses its way in a conversation
    )
    ink = Ink(sys.stdout)
    if not sys.stdin.isatty():
        demonstrate(speaker, ink, settings)
        return
    repl = Repl(speaker, ink, settings)
    repl.images = list(wishes.images)
    converse(repl)


def demonstrate(speaker: "Speaker", ink: "Ink", settings: "Settings") -> None:
    """One question with its thought shown, for those who have no terminal to type in."""
    from dataclasses import replace

    from small4.cli.repl import Repl
    from small4.cli.speaker import label

    ink.line(label(speaker), "dim")
    ink.line("standard input is no terminal: one demonstration question, then the end", "dim")
    ink.line(f"> {DEMONSTRATION}")
    answer = Repl(speaker, ink, replace(settings, effort="high")).ask(DEMONSTRATION)
    if answer.finish_reason == "aborted":
        raise typer.Exit(130)


def converse(repl: "Repl") -> None:
    """Read lines from the terminal, with the history of earlier conversations, until the user leaves."""
    from small4.cli.prompt import make_reader
    from small4.places import state_directory

    path = state_directory() / "chat_history"
    repl.run(make_reader(path, repl.state_line, has_colour=repl.ink.has_colour))
