"""`small4 run`: one question, one answer. The answer goes to standard output, all else to standard error."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from small4.cli import options

if TYPE_CHECKING:
    from small4.chat import ChatRequest
    from small4.cli.speaker import Speaker


def run_command(
    model: Annotated[
        str | None, typer.Argument(help="nano, a name that `small4 list` shows, or a path. Left out: nano.")
    ] = None,
    prompt: Annotated[str | None, typer.Argument(help="The question; - reads it from standard input.")] = None,
    system: options.System = None,
    images: options.Images = None,
    effort: options.EffortWord = None,
    budget: options.Budget = None,
    temperature: options.Temperature = 0.0,
    top_p: options.TopP = 1.0,
    top_k: options.TopK = None,
    min_p: options.MinP = 0.0,
    seed: options.Seed = None,
    max_tokens: options.MaxTokens = None,
    hide_reasoning: options.HideReasoning = False,
    cache: options.Cache = None,
    quant: options.Quant = None,
    draft: options.Draft = None,
    skip_digests: options.SkipDigests = False,
    show_usage: Annotated[bool, typer.Option("--usage", "-u", help="Tokens and times at the end.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The whole answer as one JSON object.")] = False,
) -> None:
    """Ask one question: small4 run nano "17+48+36"."""
    from small4.chat import ChatRequest, Message, Sampling
    from small4.cli.request import check_wishes, parse_quant, parse_size, user_message
    from small4.cli.speaker import default_effort, load_speaker
    from small4.hub.names import NANO

    model, question = sort_words(model, prompt)
    sampling = Sampling(temperature=temperature, top_p=top_p, top_k=top_k, min_p=min_p, seed=seed)
    wishes = check_wishes(
        effort=effort, system=system, images=images, budget=budget, max_tokens=max_tokens, sampling=sampling
    )
    messages = (
        *(() if wishes.system is None else (Message("system", wishes.system),)),
        user_message(question, wishes.images),
    )
    cache_bytes = parse_size(cache)
    speaker = load_speaker(
        model or NANO,
        check_digests=not skip_digests,
        cache_bytes=cache_bytes,
        quant=parse_quant(quant),
        draft=draft,
    )
    request = ChatRequest(
        messages=messages,
        effort=wishes.effort or default_effort(speaker),
        sampling=wishes.sampling,
        max_tokens=wishes.max_tokens,
        thinking_budget=wishes.budget,
    )
    if not answer_once(speaker, request, hide_reasoning=hide_reasoning, show_usage=show_usage, as_json=as_json):
        raise typer.Exit(130)


def sort_words(first: str | None, second: str | None) -> tuple[str | None, str]:
    """Which of the two words is the model and what is the question: `run nano hi`, `run hi`, `run nano < file`."""
    from small4.cli.names import is_model
    from small4.cli.request import read_standard_input
    from small4.errors import RequestError

    if second is not None:
        model, question = first, second
    elif first is not None and first != "-" and is_model(first):
        model, question = first, None
    else:
        model, question = None, first
    if question == "-" or (question is None and not sys.stdin.isatty()):
        question = read_standard_input()
    if question is None or not question.strip():
        raise RequestError('nothing is asked; give a question, as in: small4 run nano "17+48+36", or use: small4 chat')
    return model, question


def answer_once(
    speaker: "Speaker", request: "ChatRequest", *, hide_reasoning: bool, show_usage: bool, as_json: bool
) -> bool:
    """Ask and print; false if Ctrl-C ended the answer."""
    from small4.cli.answer import answer_json, finish_note, follow, usage_note
    from small4.cli.ink import Ink
    from small4.cli.speaker import label

    out, err = Ink(sys.stdout), Ink(sys.stderr)
    if as_json:
        told = follow(speaker.stream(request), thoughts=None, text=None)
        print(answer_json(told, speaker.name, label(speaker)))
    else:
        err.line(label(speaker), "dim")
        told = follow(speaker.stream(request), thoughts=None if hide_reasoning else err, text=out)
    if note := finish_note(told.answer, speaker):
        err.line(note, "dim")
    if show_usage and not as_json:
        err.line(usage_note(told), "dim")
        err.line(speaker.cache_note, "dim")
    return told.answer.finish_reason != "aborted"
