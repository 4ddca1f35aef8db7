"""Arguments and options that several commands have."""

import os
from typing import Annotated

import typer

JobId = Annotated[str, typer.Argument(help="The job's id, job_...", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
Revision = Annotated[
    str | None, typer.Option(help="Branch, tag or commit of the hub.", show_default="main")
]
Labels = Annotated[
    list[str] | None,
    typer.Option(metavar="KEY=VALUE", help="What to find the job by; may repeat."),
]
HubTokenFromEnv = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="For a gated model: the environment variable that holds a token of the hub.",
    ),
]


def hub_token(variable: str | None) -> str | None:
    """The value of an environment variable: arguments are seen by everybody on the machine."""
    if variable is None:
        return None
    if not (token := os.environ.get(variable)):
        raise typer.BadParameter(
            "no environment variable of that name is set", param_hint="--hub-token-from-env"
        )
    return token


def parse_pairs(pairs: list[str] | None, option: str) -> dict[str, str]:
    """`KEY=VALUE` each, as `option` was given."""
    values: dict[str, str] = {}
    for pair in pairs or []:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise typer.BadParameter(f"{pair!r} is not KEY=VALUE", param_hint=option)
        values[key] = value
    return values
