"""`small4 keys`: the keys that open this machine's servers."""

import json
import sys
import time
from typing import Annotated, cast

import typer

app = typer.Typer(
    help="Keys that open `small4 serve`: make, list, revoke.", no_args_is_help=True, rich_markup_mode=None
)

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
    from small4.cli.places import state_directory
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
    """List the keys; what opens anything is never shown."""
    from small4.cli.ink import Ink
    from small4.cli.places import state_directory
    from small4.server.keys import GatewayKey, KeyStore

    def state(key: GatewayKey) -> str:
        if key.revoked is not None:
            return "revoked"
        return "expired" if key.expires is not None and key.expires <= time.time() else "valid"

    keys = KeyStore(state_directory()).all_keys()
    if as_json:
        facts = [{"id": key.id, "name": key.name, "scopes": sorted(key.scopes), "state": state(key)} for key in keys]
        print(json.dumps(facts))
        return
    if not keys:
        print("no key exists: only this machine may call. Make one with: small4 keys create NAME")
        return
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
    Ink(sys.stdout).table(("id", "name", "scopes", "created", "state"), rows)


@app.command("revoke")
def revoke_command(key_id: Annotated[str, typer.Argument(help="As `small4 keys list` shows it.")]) -> None:
    """Close a key for good, from the next request on."""
    from small4.cli.places import state_directory
    from small4.server.keys import KeyStore

    key = KeyStore(state_directory()).revoke(key_id)
    print(f"revoked {key.id} ({key.name})")
