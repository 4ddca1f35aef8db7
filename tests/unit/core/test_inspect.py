"""What is refused before any work starts, and how defaults are filled in."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from apiq_core.config import QuantizeConfig
from apiq_core.errors import UserError
from apiq_core.inspect import LinearShape, ModelFacts, inspect_model
from apiq_core.resolve import resolve
from tests.tiny_models import make_tiny


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    return make_tiny(tmp_path / "model")


def refused(model_dir: Path) -> UserError:
    with pytest.raises(UserError) as caught:
        inspect_model(model_dir)
    return caught.value


def edit_config(model_dir: Path, **changes: Any) -> None:
    path = model_dir / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_facts_of_a_checkpoint(model_dir: Path) -> None:
    facts = inspect_model(model_dir)
    assert facts.model_type == "llama" and facts.block_count == 2 and len(facts.linears) == 7
    assert LinearShape("mlp.down_proj", d_in=128, d_out=64) in facts.linears
    assert facts.size_bytes == 2 * facts.parameter_count


def test_missing_config(tmp_path: Path) -> None:
    assert refused(tmp_path).code == "missing_config"


def test_blocks_under_another_name(model_dir: Path) -> None:
    """As in a checkpoint of the model without its head, which would fail an hour later."""
    tensors = load_file(model_dir / "model.safetensors")
    shorter = {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
    save_file(shorter, model_dir / "model.safetensors")
    error = refused(model_dir)
    assert error.code == "corrupt_weights" and "hold 0 as model.layers" in error.message


def test_config_that_is_no_json(model_dir: Path) -> None:
    (model_dir / "config.json").write_text("{")
    assert refused(model_dir).code == "corrupt_config"


def test_unsupported_architecture_names_the_supported(model_dir: Path) -> None:
    edit_config(model_dir, model_type="gpt2")
    error = refused(model_dir)
    assert error.code == "unsupported_architecture" and error.value == "gpt2"
    assert "llama" in error.legal


def test_remote_code(model_dir: Path) -> None:
    edit_config(model_dir, auto_map={"AutoModelForCausalLM": "modeling_x.X"})
    assert refused(model_dir).code == "remote_code"


def test_quantized_already(model_dir: Path) -> None:
    edit_config(model_dir, quantization_config={"quant_method": "gptq"})
    assert refused(model_dir).code == "already_quantized"


def test_only_pickle_weights(model_dir: Path) -> None:
    (model_dir / "model.safetensors").rename(model_dir / "pytorch_model.bin")
    error = refused(model_dir)
    assert error.code == "pickle_weights" and "pytorch_model.bin" in error.message


def test_no_weights_at_all(model_dir: Path) -> None:
    (model_dir / "model.safetensors").unlink()
    assert refused(model_dir).code == "missing_weights"


@pytest.mark.parametrize("keep", [4, 100, 0.5, 0.99])
def test_truncated_weights(model_dir: Path, keep: float) -> None:
    file = model_dir / "model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[: int(keep * len(content)) if keep < 1 else int(keep)])
    error = refused(model_dir)
    assert error.code == "corrupt_weights" and "model.safetensors" in error.message


def test_index_that_names_a_missing_file(model_dir: Path) -> None:
    index = {"weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors"}}
    (model_dir / "model.safetensors.index.json").write_text(json.dumps(index))
    assert refused(model_dir).code == "missing_weights"


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd"])
def test_index_that_leaves_the_folder(model_dir: Path, name: str) -> None:
    (model_dir / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": name}}))
    assert refused(model_dir).code == "missing_weights"


def test_index_that_promises_a_tensor_no_file_holds(model_dir: Path) -> None:
    index = {"weight_map": {"model.layers.9.x.weight": "model.safetensors"}}
    (model_dir / "model.safetensors.index.json").write_text(json.dumps(index))
    assert refused(model_dir).code == "corrupt_weights"


def test_fewer_blocks_than_promised(model_dir: Path) -> None:
    edit_config(model_dir, num_hidden_layers=3)
    assert refused(model_dir).code == "corrupt_weights"


def test_missing_tokenizer(model_dir: Path) -> None:
    (model_dir / "tokenizer.json").unlink()
    error = refused(model_dir)
    assert error.code == "missing_tokenizer" and "tokenizer.json" in error.legal


def resolved(facts: ModelFacts, **fields: Any) -> QuantizeConfig:
    return resolve(QuantizeConfig.model_validate({"bits": 2} | fields), facts)


def refused_config(facts: ModelFacts, **fields: Any) -> UserError:
    with pytest.raises(UserError) as caught:
        resolved(facts, **fields)
    return caught.value


def facts_of(*linears: LinearShape) -> ModelFacts:
    return ModelFacts("llama", "LlamaForCausalLM", 512, 1, linears, 10**6, 2 * 10**6)


SMOLLM2 = facts_of(
    *(
        LinearShape(f"self_attn.{name}", 576, out)
        for name, out in zip("qkvo", (576, 192, 192, 576), strict=True)
    ),
    *(LinearShape(f"mlp.{name}", 576, 1536) for name in ("gate", "up")),
    LinearShape("mlp.down", 1536, 576),
)
LLAMA_7B = facts_of(
    *(LinearShape(f"self_attn.{name}", 4096, 4096) for name in "qkvo"),
    *(LinearShape(f"mlp.{name}", 4096, 11008) for name in ("gate", "up")),
    LinearShape("mlp.down", 11008, 4096),
)


def test_defaults_suit_the_model() -> None:
    small, large = resolved(SMOLLM2), resolved(LLAMA_7B)
    assert (small.rank, large.rank) == (8, 64)
    assert small.group_size == large.group_size == 64
    assert small.recipe == "fast" and small.training.epochs is not None
    assert resolved(LLAMA_7B, recipe="paper").training.epochs == 20
    assert resolved(facts_of(LinearShape("x", 96, 96))).group_size == 32
    for method in ("rtn", "gptq", "awq", "omniquant"):
        assert resolved(SMOLLM2, method=method).rank == 0
    assert resolved(SMOLLM2, method="loftq").rank == 8
    assert resolved(SMOLLM2).formats == ["compressed-tensors"]
    assert resolved(SMOLLM2, method="qlora").formats == ["dense"]
    assert resolved(SMOLLM2, method="apiq-lw").recipe == "closed-form"
    assert resolved(SMOLLM2, method="apiq-lw", recipe="paper").training.epochs == 20
    omniquant = resolved(SMOLLM2, method="omniquant").training
    assert (omniquant.weight_decay, omniquant.epochs) == (0, 40)
    assert resolved(SMOLLM2, method="omniquant", bits=3).training.epochs == 20


def test_resolving_twice_changes_nothing() -> None:
    once = resolved(SMOLLM2)
    assert resolve(once, SMOLLM2) == once


def test_group_that_does_not_divide_names_layer_size_and_legal_groups() -> None:
    error = refused_config(SMOLLM2, group_size=128)
    assert error.param == "group_size" and error.legal == [32, 64, -1]
    assert "576" in error.message and "self_attn.q" in error.message


def test_rank_larger_than_a_layer_names_it() -> None:
    error = refused_config(SMOLLM2, rank=256)
    assert error.code == "rank_too_large" and error.legal == {"at_least": 0, "at_most": 192}
    assert "self_attn.k" in error.message


def test_layer_that_three_bits_cannot_pack() -> None:
    assert refused_config(facts_of(LinearShape("x", 64, 48)), bits=3).code == "layer_not_packable"
    assert resolved(facts_of(LinearShape("x", 64, 48)), bits=2).group_size == 64


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"method": "apiq-lw", "recipe": "fast"}, "recipe"),
        ({"method": "gptq", "recipe": "paper"}, "recipe"),
        ({"method": "apiq-lw", "recipe": "paper", "adapter": "dora"}, "adapter"),
        ({"method": "gptq-lora", "adapter": "ia3"}, "adapter"),
        ({"method": "gptq", "bits": None, "bits_per_weight": 3.0}, "method"),
        ({"recipe": "best", "formats": ["dense"]}, "formats"),
        ({"method": "awq", "rank": 8}, "rank"),
        ({"method": "loftq", "rank": 0}, "rank"),
        ({"method": "qlora", "bits": 8}, "bits"),
        ({"method": "qlora", "formats": ["compressed-tensors"]}, "formats"),
        ({"method": "gptq", "training": {"epochs": 3}}, "training.epochs"),
        ({"method": "omniquant", "training": {"lr_adapter": 1e-3}}, "training.lr_adapter"),
        ({"method": "omniquant", "training": {"lr_rounding": 1e-3}}, "training.lr_rounding"),
        ({"recipe": "paper", "training": {"lr_rounding": 1e-3}}, "training.lr_rounding"),
        ({"method": "rtn", "recipe": "fast"}, "recipe"),
        ({"method": "rtn", "rank": 8}, "rank"),
        ({"method": "apiq-lw", "training": {"epochs": 3}}, "training.epochs"),
        ({"calibration": {"length": 1024}}, "calibration.length"),
        ({"evaluation": {"length": 1024}}, "evaluation.length"),
    ],
)
def test_fields_that_contradict_the_method_or_model(fields: dict[str, Any], param: str) -> None:
    error = refused_config(SMOLLM2, **fields)
    assert error.param == param and error.value is not None


def test_inspection_never_loads_torch() -> None:
    code = "import sys, apiq_core.inspect, apiq_core.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
