"""The `apiq` command."""

import sys
from importlib.metadata import version as installed_version
from typing import Annotated

import typer

from apiq_client.commands import artifacts, datasets, finetune, jobs, keys, models, quantize, up
from apiq_client.commands.arguments import AsJson
from apiq_client.errors import ApiqError
from apiq_client.sdk import Client
from apiq_client.terminal import out, print_error, print_json

app = typer.Typer(
    name="apiq",
    help="Quantize language models: a low-bit checkpoint and a LoRA adapter per job. "
    "APIQ_URL names the server (default http://127.0.0.1:8000), APIQ_API_KEY is your key to it.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command()(up.up)
app.command()(quantize.quantize)
app.command()(finetune.finetune)
app.add_typer(jobs.app)
app.command()(jobs.events)
app.command()(jobs.logs)
app.add_typer(artifacts.app)
app.add_typer(datasets.app)
app.add_typer(models.app)
app.add_typer(keys.app)


def _show_version(is_asked: bool) -> None:
    if is_asked:
        out.print(f"apiq {installed_version('apiq')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_show_version,
            is_eager=True,
            help="Version of this command; `apiq version` tells that of the server too.",
        ),
    ] = False,
) -> None:
    pass


@app.command()
def version(json: AsJson = False) -> None:
    """Versions of this command and of the server."""
    own = installed_version("apiq")
    if not json:
        out.print(f"client  {own}")  # also where no server answers
    with Client() as client:
        server = client.version()["version"]
    if json:
        print_json({"client": own, "server": server, "url": client.url})
    else:
        out.print(f"server  {server}\nurl     {client.url}")


# of the settings, so of how the command was called
WRONG_USAGE = ("illegal_setting", "illegal_url", "host_not_loopback")


def main() -> None:
    """Exit code 0, 1 for an error (one red line), 2 for wrong usage, 130 after Ctrl-C."""
    try:
        app()
    except ApiqError as error:
        print_error(error)
        sys.exit(2 if error.code in WRONG_USAGE else 1)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # `apiq events -f | head`
        sys.stderr.close()
        sys.exit(141)
    except OSError as error:  # of this machine: no space, no permission
        place = f"{error.filename}: " if error.filename else ""
        print_error(ApiqError("file_error", f"{place}{error.strerror or error}"))
        sys.exit(1)


if __name__ == "__main__":
    main()
