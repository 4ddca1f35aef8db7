"""Bring a model into the models directory: `python -m apiq_core.import_model SOURCE --name ID`.

SOURCE is a checkpoint folder, a .gguf file, or `pip:PACKAGE`, an installed package that carries
a .gguf. A GGUF is dequantized and written as a bf16 safetensors checkpoint.
"""

import argparse
import importlib.metadata
import json
import shutil
import sys
import tempfile
from pathlib import Path

from apiq_core.config import LEGAL_MODEL_ID, is_model_id
from apiq_core.errors import UserError
from apiq_core.inspect import COMPANIONS, INDEX_FILE, inspect_model


def import_model(source: str, name: str, models_dir: Path) -> Path:
    """Import `source` as `models_dir/name` and return that directory; appears whole or not at all.

    Raises `UserError` for a name that is none, a source that is not there, a name that is taken,
    or a checkpoint that could not be quantized.
    """
    if not is_model_id(name):
        raise UserError(
            "illegal_model_id",
            f"{name!r} is not a model id; legal: {LEGAL_MODEL_ID}",
            param="name",
            legal=LEGAL_MODEL_ID,
        )
    target = models_dir / name
    if target.exists():
        raise UserError("model_exists", f"{name} is there already: {target}", param="name")
    origin = _find(source)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=models_dir, prefix=".import-") as scratch:
        checkpoint = Path(scratch) / "checkpoint"
        checkpoint.mkdir()
        if origin.is_dir():
            wanted = {"config.json", INDEX_FILE, *COMPANIONS}
            for file in origin.iterdir():
                if file.name in wanted or file.suffix == ".safetensors":
                    shutil.copyfile(file, checkpoint / file.name)
        else:
            _convert_gguf(origin, checkpoint)
        inspect_model(checkpoint)
        checkpoint.rename(target)
    return target


def _find(source: str) -> Path:
    if source.startswith("pip:"):
        package = source.removeprefix("pip:")
        try:
            files = importlib.metadata.files(package) or []
        except importlib.metadata.PackageNotFoundError:
            raise UserError(
                "source_not_found", f"package {package!r} is not installed", param="source"
            ) from None
        models = [Path(str(file.locate())) for file in files if file.suffix == ".gguf"]
        if len(models) != 1:
            raise UserError(
                "source_not_found",
                f"package {package!r} carries {len(models)} .gguf files, not one",
                param="source",
            )
        return models[0]
    path = Path(source)
    if not (path.is_dir() or (path.is_file() and path.suffix == ".gguf")):
        raise UserError(
            "source_not_found",
            f"{source!r} is neither a checkpoint folder nor a .gguf file",
            param="source",
            legal="a folder, a .gguf file, pip:PACKAGE",
        )
    return path


def _convert_gguf(file: Path, out_dir: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        model = AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, dtype=torch.float32
        )
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    except Exception as error:  # whatever a reader of a foreign format may raise
        raise UserError(
            "corrupt_gguf", f"{file.name} does not load as a GGUF: {error}", param="source"
        ) from error
    del model.config.quantization_config  # save_pretrained refuses it: not serializable
    plain = AutoModelForCausalLM.from_config(model.config, dtype=torch.bfloat16)
    plain.load_state_dict(model.state_dict())
    plain.generation_config = model.generation_config
    plain.save_pretrained(out_dir)
    tokenizer.save_pretrained(out_dir)
    _write_legacy_keys(out_dir)
    for path in out_dir.iterdir():
        path.chmod(0o644)  # save_pretrained writes 0600


def _write_legacy_keys(checkpoint: Path) -> None:
    """Readers before transformers 5 look for these names and fall back to wrong values."""
    config = json.loads((checkpoint / "config.json").read_text())
    rope = config.get("rope_parameters") or {}
    if "rope_theta" in rope:
        config["rope_theta"] = rope["rope_theta"]
    config["torch_dtype"] = config.get("dtype", "bfloat16")
    (checkpoint / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    tokenizer = json.loads((checkpoint / "tokenizer_config.json").read_text())
    tokenizer["tokenizer_class"] = "PreTrainedTokenizerFast"
    (checkpoint / "tokenizer_config.json").write_text(json.dumps(tokenizer, indent=2) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(prog="apiq_core.import_model", description=__doc__)
    parser.add_argument("source")
    parser.add_argument("--name", required=True, help="the id under which jobs will name it")
    parser.add_argument("--models-dir", type=Path, required=True)
    arguments = parser.parse_args()
    try:
        target = import_model(arguments.source, arguments.name, arguments.models_dir)
    except UserError as error:
        print(f"error: {error.message} [{error.code}]", file=sys.stderr)
        return 2
    print(f"imported {arguments.name} to {target}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
