"""`apiq keys`: who may call. On the server's machine: it works on the records, not over HTTP."""

import json as jsonlib
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from apiq_client import rooms
from apiq_client.commands.arguments import AsJson
from apiq_client.terminal import err, out, print_json, print_table

app = typer.Typer(
    name="keys",
    help="API keys, made on the server's machine. They need its APIQ_... settings.",
    no_args_is_help=True,
)

DataDir = Annotated[
    Path, typer.Option(envvar="APIQ_DATA_DIR", help="The data directory of the server.")
]
DEFAULT_DATA_DIR = Path("apiq-data")


@app.command()
def create(
    owner: Annotated[
        str, typer.Option(help="Whose jobs and datasets it sees; several keys may share one.")
    ],
    name: Annotated[str, typer.Option(help="What the key is for.")] = "default",
    scope: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SCOPE",
            help="jobs:read, jobs:write, artifacts:read or admin; may repeat.",
            show_default="all but admin",
        ),
    ] = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    json: AsJson = False,
) -> None:
    """Make a key and print it, this once: nobody can read it again."""
    scopes = [part for value in scope or [] for part in ("--scope", value)]
    key = _keys(data_dir, "create", "--owner", owner, "--name", name, *scopes)
    if json:
        print_json(key)
        return
    err.print(f"{key['id']} of {key['owner']}, for {', '.join(key['scopes'])}; shown this once:")
    out.print(key["key"])


@app.command("list")
def list_keys(data_dir: DataDir = DEFAULT_DATA_DIR, json: AsJson = False) -> None:
    """The keys there are, revoked ones too."""
    answer = _keys(data_dir, "list")
    if json:
        print_json(answer)
        return
    print_table(
        ("ID", "OWNER", "NAME", "SCOPES", "CREATED (UTC)", "REVOKED (UTC)"),
        (
            (
                key["id"],
                key["owner"],
                key["name"],
                ",".join(key["scopes"]),
                _moment(key["created_at"]),
                _moment(key["revoked_at"]),
            )
            for key in answer["keys"]
        ),
    )


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(help="key_..., see `apiq keys list`.")],
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """End a key at once."""
    _keys(data_dir, "revoke", key_id)
    out.print(f"{key_id} revoked")


def _keys(data_dir: Path, *arguments: str) -> dict[str, Any]:
    environment = os.environ | {"APIQ_DATA_DIR": str(data_dir.resolve())}
    said = rooms.run(
        "jobs.keys_admin", *arguments, code="keys_failed", capture=True, environment=environment
    )
    answer: dict[str, Any] = jsonlib.loads(said)
    return answer


def _moment(text: str | None) -> str:
    return (text or "")[:19].replace("T", " ")
