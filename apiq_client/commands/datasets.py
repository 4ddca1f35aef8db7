"""`apiq datasets`."""

from pathlib import Path
from typing import Annotated

import typer

from apiq_client.commands.arguments import AsJson, HubTokenFromEnv, Revision, hub_token
from apiq_client.sdk import Client
from apiq_client.terminal import describe_bytes, out, print_json, print_preview, print_table

app = typer.Typer(
    name="datasets", help="Texts to calibrate on, rows to train on.", no_args_is_help=True
)


@app.command()
def upload(
    file: Annotated[
        Path,
        typer.Argument(
            exists=True,
            dir_okay=False,
            help="A UTF-8 text: .txt; or rows: .jsonl, .ndjson, an object of JSON a line.",
        ),
    ],
    name: Annotated[str | None, typer.Option(help="What to call it.")] = None,
    json: AsJson = False,
) -> None:
    """Upload a text to calibrate on, or rows to train on.

    A text is used by `apiq quantize --calibration-source dataset:ID`.
    """
    with Client() as client:
        dataset = client.upload_dataset(file, name=name)
    if json:
        print_json(dataset)
    else:
        out.print(dataset.id)


@app.command()
def fetch(
    hub: Annotated[str, typer.Argument(help="A dataset of the hub: org/name")],
    config: Annotated[str | None, typer.Option(help="Which of its configurations.")] = None,
    split: Annotated[str, typer.Option(help="Which of its splits.")] = "train",
    revision: Revision = None,
    hub_token_from_env: HubTokenFromEnv = None,
    name: Annotated[str | None, typer.Option(help="What to call it.")] = None,
    json: AsJson = False,
) -> None:
    """Let the server fetch a dataset of the hub.

    It takes a split's files of rows (parquet, JSONL) or of text.
    """
    with Client() as client:
        dataset = client.fetch_dataset(
            hub,
            config=config,
            split=split,
            revision=revision,
            hub_token=hub_token(hub_token_from_env),
            name=name,
        )
    if json:
        print_json(dataset)
    else:
        out.print(dataset.id)


@app.command("list")
def list_datasets(json: AsJson = False) -> None:
    """All that was uploaded or fetched, newest first."""
    with Client() as client:
        datasets = client.datasets()
    if json:
        print_json({"datasets": datasets})
        return
    print_table(
        ("ID", "NAME", "KIND", "ROWS", "SIZE", "CREATED (UTC)"),
        (
            (
                x.id,
                x.name or "",
                x.kind,
                "-" if x.rows is None else str(x.rows),
                describe_bytes(x.size_bytes),
                f"{x.created_at:%Y-%m-%d %H:%M:%S}",
            )
            for x in datasets
        ),
    )


@app.command()
def preview(
    dataset_id: Annotated[str, typer.Argument(help="ds_...")],
    base: Annotated[
        str | None,
        typer.Option(help="Show the tokens of this base: a quantize job (job_...), or a model id."),
    ] = None,
    max_length: Annotated[
        int | None,
        typer.Option(
            help="With --base: count the rows of more tokens, as a job of this max_length would. "
            "Default: that of a job."
        ),
    ] = None,
    json: AsJson = False,
) -> None:
    """The first rows as training reads them.

    What is learned is green, or in [brackets].
    """
    with Client() as client:
        found = client.preview_dataset(dataset_id, base=base, max_length=max_length)
    if json:
        print_json(found.model_dump(mode="json", exclude_none=True))
    else:
        print_preview(found)


@app.command()
def delete(dataset_id: Annotated[str, typer.Argument(help="ds_...")]) -> None:
    """Delete what no unfinished job uses."""
    with Client() as client:
        client.delete_dataset(dataset_id)
    out.print(f"{dataset_id} deleted")
