"""What finetuning refuses: data, settings and bases that it cannot train."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from apiq_core.errors import UserError
from apiq_core.finetune.finetune import finetune
from tests.integration.core.finetune.support import config, run
from tests.tiny_models import make_tiny

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning:transformers")


@pytest.mark.parametrize(
    ("rows", "fields", "code"),
    [
        ('{"text": "one row"}', {}, "too_little_data"),
        ('{"text": "a b c"}\n' * 4, {"max_length": 513}, "illegal_length"),
        ('{"text": "a b c"}\n' * 4, {"rank": 4}, "illegal_rank"),
        ('{"text": "a b c"}\n' * 4, {"adapter": "dora"}, "illegal_adapter"),
        ('{"messages": [{"role": "assistant", "content": "a"}]}', {}, "no_chat_template"),
        ('{"text": "' + "long " * 80 + '"}', {}, "rows_too_long"),
        ("", {}, "empty_dataset"),
        ("text", {}, "bad_rows"),
    ],
)
def test_what_cannot_be_trained_on(
    base: Path, tmp_path: Path, rows: str, fields: dict[str, Any], code: str
) -> None:
    (tmp_path / "rows.jsonl").write_text(rows)
    with pytest.raises(UserError) as caught:
        run(base, tmp_path / "rows.jsonl", tmp_path / "out", config(**fields))
    assert caught.value.code == code
    assert "legal: " in caught.value.message


def changed_json(file: Path, **fields: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def cut(folder: Path) -> None:
    file = next(folder.glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-100])


def without(folder: Path, ending: str) -> None:
    for file in folder.glob("*.safetensors"):
        kept = {name: t for name, t in load_file(file).items() if not name.endswith(ending)}
        save_file(kept, file, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("is_packed", "damage", "code"),
    [
        # Granite divides its logits
        (False, lambda d: changed_json(d / "config.json", model_type="granite"), "unsupported"),
        (True, lambda d: changed_json(d / "config.json", model_type="granite"), "unsupported"),
        (False, cut, "corrupt_weights"),
        (True, cut, "corrupt_weights"),
        (False, lambda d: changed_json(d / "config.json", intermediate_size=96), "corrupt_weights"),
        (True, lambda d: without(d, "zero_point"), "corrupt_weights"),
        # tokens were added, and the model was not resized
        (False, lambda d: make_tiny(d, vocab_size=300), "corrupt_tokenizer"),
    ],
)
def test_a_base_that_cannot_be_trained(
    base: Path,
    sums: Path,
    tmp_path: Path,
    is_packed: bool,
    damage: Callable[[Path], Any],
    code: str,
) -> None:
    source = base / "model" if is_packed else make_tiny(tmp_path / "source")
    damaged = Path(shutil.copytree(source, tmp_path / "damaged"))
    damage(damaged)
    with pytest.raises(UserError) as caught:
        finetune(damaged, None, sums, tmp_path / "out", config(rank=4))
    assert caught.value.code.startswith(code)


def test_an_adapter_that_is_on_none_of_the_chosen_layers(
    base: Path, sums: Path, tmp_path: Path
) -> None:
    """A budget may have given it to others alone."""
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    tensors = load_file(base / "adapter" / "adapter_model.safetensors")
    of_mlp = {name: tensor for name, tensor in tensors.items() if ".mlp." in name}
    save_file(of_mlp, adapter / "adapter_model.safetensors")
    content = json.loads((base / "adapter" / "adapter_config.json").read_text())
    content["target_modules"] = ["gate_proj", "up_proj", "down_proj"]
    (adapter / "adapter_config.json").write_text(json.dumps(content))
    with pytest.raises(UserError) as caught:
        finetune(base / "model", adapter, sums, tmp_path / "out", config(train="attention"))
    assert (caught.value.code, caught.value.param) == ("illegal_train", "train")
