"""`apiq models`: the models directory of this machine. The server is not asked."""

import json as jsonlib
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from apiq_client import rooms
from apiq_client.commands.arguments import AsJson
from apiq_client.terminal import describe_bytes, err, print_json, print_table

app = typer.Typer(name="models", help="The models directory of this machine.", no_args_is_help=True)

ModelsDir = Annotated[
    Path | None,
    typer.Option(
        envvar="APIQ_MODELS_DIR",
        help="The models directory.",
        show_default="models in APIQ_DATA_DIR, or in ./apiq-data",
    ),
]


@app.command("import")
def import_model(
    source: Annotated[
        str, typer.Argument(help="A checkpoint folder, a .gguf file, or pip:PACKAGE.")
    ],
    name: Annotated[str, typer.Option(help="The id under which jobs name it.")],
    models_dir: ModelsDir = None,
) -> None:
    """Bring a model in, so that jobs find it under NAME.

    They are the jobs of an `apiq up` with the same data directory.
    """
    models_dir = _absolute(models_dir)
    err.print(f"importing {source} to {models_dir / name}")
    options = ["--name", name, "--models-dir", str(models_dir)]
    rooms.run("apiq_core.import_model", source, *options, code="import_failed")


@app.command("list")
def list_models(models_dir: ModelsDir = None, json: AsJson = False) -> None:
    """The models that are there."""
    models_dir = _absolute(models_dir)
    rows: list[dict[str, Any]] = [
        {
            "id": config.parent.relative_to(models_dir).as_posix(),
            "model_type": _model_type(config),
            "size_bytes": sum(file.stat().st_size for file in config.parent.glob("*.safetensors")),
        }
        for pattern in ("[!.]*/config.json", "[!.]*/*/config.json")
        for config in sorted(models_dir.glob(pattern))
    ]
    if json:
        print_json({"models_dir": str(models_dir), "models": rows})
        return
    if not rows:
        err.print(
            f"there is no model in {models_dir}; `apiq models import` brings one in, "
            "--models-dir or APIQ_DATA_DIR names another directory"
        )
        return
    err.print(f"in {models_dir}")
    print_table(
        ("ID", "TYPE", "WEIGHTS"),
        ((x["id"], x["model_type"], describe_bytes(x["size_bytes"])) for x in rows),
    )


def _model_type(config: Path) -> str:
    """`?` where a config does not tell, or is none: the others are listed all the same."""
    try:
        return str(jsonlib.loads(config.read_bytes())["model_type"])
    except (ValueError, KeyError, TypeError):
        return "?"


def _absolute(models_dir: Path | None) -> Path:
    """Where no directory is named, that of an `apiq up` which is started from this one."""
    data_dir = Path(os.environ.get("APIQ_DATA_DIR", "apiq-data"))
    return (models_dir or data_dir / "models").resolve()
