"""`small4 keys`: the keys that open this machine's servers, and, in `provider_keys.py`, those of hosted providers."""

import json
import sys
import time
from typing import Annotated, cast

import typer

from small4.cli.provider_keys import provider_rows, remove_command, set_command, try_command

app = typer.Typer(
    help="Keys that open `small4 serve`: create, revoke. Keys of hosted providers: set, test, rm. Both: list.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.command("set")(set_command)
app.command("test")(try_command)
app.command("rm")(remove_command)

SECONDS_PER_DAY = 86_400


@app.command("create")
def create_command(
    name: Annotated[str, typer.Argument(help="What it is for; it stands in listings and logs.")],
    scopes: Annotated[
        list[str] | None,
        typer.Option("--scope", metavar="WORD", help="inference, batch, metrics or admin; repeatable."),
    ] = None,
    days: Annotated[float | None, typer.Option("--days", metavar="N", help="It expires then.")] = None,
) -> None:
    """Make a key. It is shown once; from then on every request needs one."""
    from small4.places import state_directory
    from small4.server.keys import DEFAULT_SCOPES, KeyStore, Scope

    wanted = DEFAULT_SCOPES if scopes is None else cast("frozenset[Scope]", frozenset(scopes))  # `create` checks them
    lifetime = None if days is None else days * SECONDS_PER_DAY
    text, key = KeyStore(state_directory()).create(name, wanted, lifetime)
    print(text)
    print(f"key {key.id} for {key.name}: {', '.join(sorted(key.scopes))}. It is not shown again.", file=sys.stderr)


@app.command("list")
def list_command(
    as_json: Annotated[bool, typer.Option("--json", help="Print the list as JSON.")] = False,
) -> None:
    """List the keys that open this machine's servers, and those of providers; no key itself is ever shown."""
    from small4.cli.ink import Ink
    from small4.places import state_directory
    from small4.server.keys import GatewayKey, KeyStore

    def state(key: GatewayKey) -> str:
        if key.revoked is not None:
            return "revoked"
        return "expired" if key.expires is not None and key.expires <= time.time() else "valid"

    keys, providers = KeyStore(state_directory()).all_keys(), provider_rows()
    if as_json:
        facts: list[dict[str, object]] = [
            {"kind": "server", "id": key.id, "name": key.name, "scopes": sorted(key.scopes), "state": state(key)}
            for key in keys
        ]
        print(json.dumps(facts + [{"kind": "provider", **row} for row in providers]))
        return
    ink = Ink(sys.stdout)
    if keys:
        rows = [
            (
                key.id,
                key.name,
                " ".join(sorted(key.scopes)),
                time.strftime("%Y-%m-%d", time.gmtime(key.created)),
                state(key),
            )
            for key in keys
        ]
        ink.table(("id", "name", "scopes", "created", "state"), rows)
    else:
        print("no key opens this machine's servers: only this machine may call. Make one with: small4 keys create NAME")
    if providers:
        print()
        ink.table(("provider", "sent to", "ends in", "from"), [tuple(row.values()) for row in providers])
    else:
        print("no key of a provider is here. Keep one with: small4 keys set mistral")


@app.command("revoke")
def revoke_command(key_id: Annotated[str, typer.Argument(help="As `small4 keys list` shows it.")]) -> None:
    """Close a key for good, from the next request on."""
    from small4.places import state_directory
    from small4.server.keys import KeyStore

    key = KeyStore(state_directory()).revoke(key_id)
    print(f"revoked {key.id} ({key.name})")
