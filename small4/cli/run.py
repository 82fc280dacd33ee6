"""`small4 run`: one question, one answer. The answer goes to standard output, all else to standard error."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from small4.cli import options

if TYPE_CHECKING:
    from small4.chat import ChatRequest
    from small4.cli.answer import Told
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
    temperature: options.Temperature = None,
    top_p: options.TopP = 1.0,
    top_k: options.TopK = None,
    min_p: options.MinP = 0.0,
    seed: options.Seed = None,
    repetition_penalty: options.RepetitionPenalty = 1.0,
    presence_penalty: options.PresencePenalty = 0.0,
    frequency_penalty: options.FrequencyPenalty = 0.0,
    logprobs: Annotated[
        int | None,
        typer.Option(
            "--logprobs", metavar="K", help="How sure it was of each token, and of the K likeliest ones there."
        ),
    ] = None,
    num_answers: Annotated[int, typer.Option("-n", metavar="N", help="So many answers, each drawn by itself.")] = 1,
    max_tokens: options.MaxTokens = None,
    route: options.RouteWord = None,
    dialect: options.DialectWord = None,
    hide_reasoning: options.HideReasoning = False,
    cache: options.Cache = None,
    quant: options.Quant = None,
    draft: options.Draft = None,
    skip_digests: options.SkipDigests = False,
    show_usage: Annotated[bool, typer.Option("--usage", "-u", help="Tokens and times at the end.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The whole answer as one JSON object.")] = False,
) -> None:
    """Ask one question: small4 run nano "17+48+36". With --route, ask a hosted provider."""
    from contextlib import ExitStack

    from small4.chat import ChatRequest, Message
    from small4.cli.drawing import check_drawing
    from small4.cli.hosted_speaker import check_route, hosted_speaker
    from small4.cli.request import check_num_answers, check_wishes, parse_quant, parse_size, user_message
    from small4.cli.speaker import default_effort, load_speaker
    from small4.hub.names import NANO

    check_num_answers(num_answers)
    check_route(route, dialect, {"--cache": cache, "--quant": quant, "--draft": draft, "--skip-digests": skip_digests})
    model, question = sort_words(model, prompt, is_hosted=route is not None)
    drawing = check_drawing(
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        min_p=min_p,
        seed=seed,
        repetition_penalty=repetition_penalty,
        presence_penalty=presence_penalty,
        frequency_penalty=frequency_penalty,
        logprobs=logprobs,
    )
    wishes = check_wishes(
        effort=effort, system=system, images=images, budget=budget, max_tokens=max_tokens, drawing=drawing
    )
    messages = (
        *(() if wishes.system is None else (Message("system", wishes.system),)),
        user_message(question, wishes.images),
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
        settled = wishes.effort or default_effort(speaker)
        request = ChatRequest(
            messages=messages,
            effort=settled,
            sampling=wishes.drawing.at(settled, speaker.temperatures),
            num_answers=num_answers,
            max_tokens=wishes.max_tokens,
            thinking_budget=wishes.budget,
        )
        answer = answer_once if num_answers == 1 else answer_several
        if not answer(speaker, request, hide_reasoning=hide_reasoning, show_usage=show_usage, as_json=as_json):
            raise typer.Exit(130)


def sort_words(first: str | None, second: str | None, *, is_hosted: bool = False) -> tuple[str | None, str]:
    """Which of the two words is the model and what is the question: `run nano hi`, `run hi`, `run nano < file`.

    Of a hosted provider nobody knows the models here, so that a lone word is the question.
    """
    from small4.cli.names import is_model
    from small4.cli.request import read_standard_input
    from small4.errors import RequestError

    if second is not None:
        model, question = first, second
    elif first is not None and first != "-" and not is_hosted and is_model(first):
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
    from small4.cli.answer import follow, usage_note
    from small4.cli.ink import Ink
    from small4.cli.speaker import label

    out, err = Ink(sys.stdout), Ink(sys.stderr)
    if as_json:
        told = follow(speaker.stream(request), thoughts=None, text=None)
    else:
        err.line(label(speaker), "dim")
        told = follow(speaker.stream(request), thoughts=None if hide_reasoning else err, text=out)
    finish(speaker, told, as_json=as_json)
    if show_usage and not as_json:
        err.line(usage_note(told), "dim")
        if speaker.cache_note:
            err.line(speaker.cache_note, "dim")
    return told.answer.finish_reason != "aborted"


def answer_several(
    speaker: "Speaker", request: "ChatRequest", *, hide_reasoning: bool, show_usage: bool, as_json: bool
) -> bool:
    """Ask and print all answers in order; false if Ctrl-C ended them. In JSON, each answer is a line."""
    from small4.cli.answer import Told, follow
    from small4.cli.ink import Ink
    from small4.cli.several import one_by_one, several_usage_note
    from small4.cli.speaker import label

    out, err, answers = Ink(sys.stdout), Ink(sys.stderr), list["Told"]()
    if not as_json:
        err.line(label(speaker), "dim")
        if request.sampling.temperature == 0.0:
            err.line("(at temperature 0 all answers are alike; -T 0.7 draws them apart)", "dim")
    try:
        for whole in one_by_one(speaker.events(request)):
            if not as_json:
                err.line(f"answer {whole.index + 1} of {request.num_answers}", "label")
            thoughts, text = (None, None) if as_json else (None if hide_reasoning else err, out)
            told = Told(follow(iter(whole.events), thoughts=thoughts, text=text).answer, whole.seconds, None)
            finish(speaker, told, as_json=as_json, index=whole.index)
            answers.append(told)
    except KeyboardInterrupt:
        err.line(f"(stopped after {len(answers)} of {request.num_answers} answers)", "dim")
        return False
    if show_usage and not as_json:
        err.line(several_usage_note([told.answer for told in answers], max(told.seconds for told in answers)), "dim")
        if speaker.cache_note:
            err.line(speaker.cache_note, "dim")
    return True


def finish(speaker: "Speaker", told: "Told", *, as_json: bool, index: int | None = None) -> None:
    """What is said of an answer once it is whole: all of it as JSON, or how sure it was, and why it was cut off."""
    from small4.cli.answer import answer_json, finish_note
    from small4.cli.ink import Ink
    from small4.cli.logprobs import logprob_rows
    from small4.cli.speaker import label

    err = Ink(sys.stderr)
    if as_json:
        print(answer_json(told, speaker.name, label(speaker), index))
    elif told.answer.logprobs:
        for row in logprob_rows(told.answer.logprobs):
            err.line(row, "dim")
    if note := finish_note(told.answer, speaker):
        err.line(note, "dim")
