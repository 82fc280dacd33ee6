"""The `small4` command: its verbs, and what becomes of an error on the way out.

Importing this module costs Typer and nothing else: a verb's function imports what it needs when it runs, so that
`small4 --help` loads neither torch nor numpy.
"""

import sys
from typing import Annotated

import typer

from small4.cli.bench import bench_command
from small4.cli.catalog import app as catalog_app
from small4.cli.chat import chat_command
from small4.cli.convert import convert_command
from small4.cli.cost import cost_command
from small4.cli.inspection import show_command, verify_command
from small4.cli.installed import list_command, remove_command
from small4.cli.keys import app as keys_app
from small4.cli.pull import pull_command
from small4.cli.routes import app as route_app
from small4.cli.routes import routes_command
from small4.cli.run import run_command
from small4.cli.serve import serve_command
from small4.cli.servers import logs_command, ps_command, stop_command
from small4.cli.snippet import launch_command, snippet_command
from small4.cli.training import eval_command, train_command
from small4.cli.usage import usage_command

app = typer.Typer(
    name="small4",
    help="Run models of the Mistral Small 4 architecture on this machine.",
    epilog="small4 VERB --help tells more. Start with: small4 chat",
    # Plain help: rich would double the time that it takes to appear.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
app.command("run", short_help="Ask one question.")(run_command)
app.command("chat", short_help="Talk to a model.")(chat_command)
app.command("serve", short_help="Serve a model to every SDK.")(serve_command)
app.command("ps", short_help="List the servers that run.")(ps_command)
app.command("stop", short_help="Stop a server.")(stop_command)
app.command("logs", short_help="Show a server's log.")(logs_command)
app.command("snippet", short_help="Print a program that asks the server.")(snippet_command)
app.command("launch", short_help="Start a coding agent on the server.")(launch_command)
app.add_typer(keys_app, name="keys", short_help="Make, list and revoke keys.")
app.command("usage", short_help="Show what was used and what it cost.")(usage_command)
app.command("pull", short_help="Fetch a checkpoint; an interrupted pull goes on.")(pull_command)
app.command("list", short_help="List the models on this machine.")(list_command)
app.command("ls", hidden=True)(list_command)
app.command("rm", short_help="Delete a model from the hub cache.")(remove_command)
app.command("show", short_help="Tell what a checkpoint is.")(show_command)
app.command("verify", short_help="Check every byte of a checkpoint.")(verify_command)
app.command("convert", short_help="Write a checkpoint in another format.")(convert_command)
app.add_typer(catalog_app, name="catalog", short_help="What is claimed of the model and its routes.")
app.command("routes", short_help="List the routes to the model.")(routes_command)
app.add_typer(route_app, name="route", short_help="Tell where a request would go, and why.")
app.command("cost", short_help="What a workload costs on every route.")(cost_command)
app.command("bench", short_help="Time the engine on this machine.")(bench_command)
app.command("train", short_help="Train a nano from nothing, or its draft head.")(train_command)
app.command("eval", short_help="Measure a nano on held-out problems.")(eval_command)


@app.callback(invoke_without_command=True)
def status_command(
    context: typer.Context,
    show_version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of any error: small4 --debug VERB.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With no verb: print the status as JSON.")] = False,
) -> None:
    """Run models of the Mistral Small 4 architecture on this machine. No verb: what is ready, and the next step."""
    if show_version:
        from small4.cli.status import own_version

        print(f"small4 {own_version()}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        from small4.cli.status import print_status

        print_status(as_json=as_json)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 2 a mistake that the user can mend, 130 Ctrl-C, 1 anything else."""
    arguments = sys.argv[1:] if arguments is None else arguments
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # An old terminal's encoding must not end an answer; and a pipe that closes early (`small4 list | head -1`)
            # is noticed while Typer can still handle it.
            stream.reconfigure(errors="replace", line_buffering=True)
    try:
        app(arguments, prog_name="small4")
    except Exception as error:
        from small4.cli.failures import report

        sys.exit(report(error, debug=bool(arguments) and arguments[0] == "--debug"))
