"""`small4 snippet` and `small4 launch`: how to point a program or an agent at the running server."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from small4.errors import RequestError

SNIPPETS = Path(__file__).with_name("snippets")
URL = "http://127.0.0.1:4119"
NO_KEY = "none"  # while no key exists; the SDKs refuse an empty one

LAUNCHES: dict[str, tuple[str, dict[str, str]]] = {  # the command, and the environment that it reads
    "claude": (
        "claude",
        {
            "ANTHROPIC_BASE_URL": "{url}",
            "ANTHROPIC_AUTH_TOKEN": "{key}",
            "ANTHROPIC_MODEL": "{model}",
            "ANTHROPIC_SMALL_FAST_MODEL": "{model}",
            "CLAUDE_CODE_ATTRIBUTION_HEADER": "0",  # it changes with every turn and defeats the prefix cache
        },
    ),
    "codex": (
        "codex -c model_provider=small4 -c model={model} -c model_providers.small4.name=small4 "
        "-c model_providers.small4.base_url={url}/v1 -c model_providers.small4.env_key=SMALL4_KEY "
        "-c model_providers.small4.wire_api=responses",
        {"SMALL4_KEY": "{key}"},
    ),
    "opencode": (
        "opencode",
        {
            "OPENCODE_CONFIG_CONTENT": '{{"provider": {{"small4": {{"npm": "@ai-sdk/openai-compatible", '
            '"options": {{"baseURL": "{url}/v1", "apiKey": "{key}"}}, "models": {{"{model}": {{}}}}}}}}, '
            '"model": "small4/{model}"}}'
        },
    ),
}

Url = Annotated[str | None, typer.Option("--url", help="Of the server; left out: the one that runs here.")]
Key = Annotated[str, typer.Option("--key", help="A key that opens it.", envvar="SMALL4_API_KEY")]
Model = Annotated[str | None, typer.Option("--model", help="The model's id; left out: the one that is served.")]


def snippet_command(
    kind: Annotated[str, typer.Argument(help="python, js, curl, anthropic, gemini, mistral or agent.")] = "python",
    url: Url = None,
    key: Key = NO_KEY,
    model: Model = None,
) -> None:
    """Print a program that asks the server, or a text that tells a coding agent how to."""
    print(snippet(kind, *where(url, model), key), end="")


def launch_command(
    agent: Annotated[str, typer.Argument(help="claude, codex or opencode.")],
    url: Url = None,
    key: Key = NO_KEY,
    model: Model = None,
    only_print: Annotated[bool, typer.Option("--print", help="Print what would be run, and run nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Start it without asking.")] = False,
) -> None:
    """Start a coding agent on the server. Nothing is written to its configuration."""
    words, environment = launch(agent, *where(url, model), key)
    if only_print:
        for name, value in environment.items():
            print(f"export {name}={_quoted(value)}")
        print(" ".join(map(_quoted, words)))
        return
    if not yes and not (sys.stdin.isatty() and typer.confirm(f"Start {words[0]} now?", err=True)):
        raise typer.Abort
    try:
        os.execvpe(words[0], words, os.environ | environment)
    except FileNotFoundError:
        raise RequestError(
            f"{words[0]} is not installed here; small4 launch {agent} --print shows its settings"
        ) from None


def snippet(kind: str, url: str, model: str, key: str) -> str:
    """The text of one kind, for a server."""
    file = SNIPPETS / f"{kind}.txt"
    kinds = sorted(known.stem for known in SNIPPETS.glob("*.txt"))
    if kind not in kinds:
        raise RequestError(f"unknown snippet {kind!r}; choose one of {', '.join(kinds)}")
    return file.read_text(encoding="utf-8").format(url=url, model=model, key=key)


def launch(agent: str, url: str, model: str, key: str) -> tuple[list[str], dict[str, str]]:
    """The command's words and the environment that points an agent at a server."""
    if agent not in LAUNCHES:
        raise RequestError(f"unknown agent {agent!r}; choose one of {', '.join(LAUNCHES)}")
    command, environment = LAUNCHES[agent]
    fill = {"url": url, "model": model, "key": key}
    words = [word.format(**fill) for word in command.split()]
    return words, {name: value.format(**fill) for name, value in environment.items()}


def where(url: str | None, model: str | None) -> tuple[str, str]:
    """The server and the model that are meant."""
    from small4.cli.servers import running_servers

    servers = running_servers()
    if url is None:
        url = servers[0].url if servers else URL
    if model is None:
        model = next((running.model for running in servers if running.url == url.rstrip("/")), "nano")
    return url.rstrip("/"), model


def _quoted(text: str) -> str:
    from shlex import quote

    return quote(text)
