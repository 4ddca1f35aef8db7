"""L4Q and QA-LoRA through the whole of finetuning, read back with stock tools."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import apiq_core.finetune.finetune as finetuning
from apiq_core.errors import Stopped, UserError
from apiq_core.events import Event
from apiq_core.finetune.base import Base
from apiq_core.finetune.finetune import finetune
from apiq_core.finetune.methods import l4q
from apiq_core.finetune.methods.l4q_linear import L4QLinear
from apiq_core.finetune.packed.packed_model import load_model
from tests.integration.core.finetune.support import (
    config,
    quantized,
    rows_of,
    run,
    stock_logits,
    stock_loss,
    stop_after,
)
from tests.tiny_models import make_tiny

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning:transformers")
SMALL_L4Q: dict[str, Any] = {"method": "l4q", "lr_quantizer": 1e-2}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return quantized(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Without adapter."""
    return quantized(tmp_path_factory.mktemp("bare"), rank=0, group_size=32)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny(tmp_path_factory.mktemp("source"))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    files = sorted((folder / "model").glob("*.safetensors"))
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


@pytest.mark.parametrize(
    "fields",
    [
        {"bits": 2},
        {"bits": 3, "rank": 0},
        {"bits": 4, "group_size": -1},
        {"bits": None, "rank": None, "bits_per_weight": 4.5},
    ],
    ids=str,
)
def test_l4q_learns_and_publishes_a_model_without_adapter(
    sums: Path, tmp_path: Path, fields: dict[str, Any]
) -> None:
    base, out = quantized(tmp_path, **fields), tmp_path / "out"
    report = run(base, sums, out, config(**SMALL_L4Q, epochs=6))
    assert report.validation_loss.after < 0.9 * report.validation_loss.before
    assert sorted(p.name for p in out.iterdir()) == [
        "README.md",
        "model",
        "report.html",
        "report.json",
    ]
    names = {p.name for p in (base / "model").iterdir()}
    assert {p.name for p in (out / "model").iterdir()} == names
    for name in ("config.json", "tokenizer.json"):
        assert (out / "model" / name).read_bytes() == (base / "model" / name).read_bytes()
    before, after = weights(base), weights(out)
    assert {n: (t.shape, t.dtype) for n, t in after.items()} == {
        n: (t.shape, t.dtype) for n, t in before.items()
    }
    moved = {n.rpartition(".")[2] for n in before if not torch.equal(before[n], after[n])}
    assert moved <= {"weight_packed", "weight_scale", "weight_zero_point"}
    assert {"weight_packed", "weight_scale"} <= moved
    assert stock_loss(out, sums, None) < 0.95 * stock_loss(base, sums, None)
    card = (out / "README.md").read_text()
    assert 'from_pretrained("model")' in card and "PeftModel" not in card
    assert card.startswith("---\n") and "base_model_relation: quantized\n" in card
    assert " bits, finetuned by L4Q" in card


def test_what_l4q_writes_is_the_model_that_was_trained(
    base: Path, sums: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Logits of the layers in training, of the packed ones, and of a stock reader of the file."""
    tokens, _ = rows_of(base, sums)
    seen: list[torch.Tensor] = []
    store = l4q.store

    def stored(model: nn.Module) -> None:
        model.eval()
        with torch.no_grad():
            for _ in range(2):
                seen.append(model(tokens).logits)
                store(model)

    monkeypatch.setattr(l4q, "store", stored)
    monkeypatch.setattr(finetuning, "use_matmul_dtype", lambda *_: None)  # bf16 hides differences
    run(base, sums, tmp_path, config(**SMALL_L4Q))
    training, packed = seen
    assert torch.equal(training, packed)
    torch.testing.assert_close(packed, stock_logits(tmp_path, tokens), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("bits", "group_size", "train", "dense_weights"),
    [(2, 32, "all", 202e6), (4, 64, "mlp", 135e6), (3, -1, "attention", 67e6)],
)
def test_l4q_from_full_precision(
    source: Path,
    sums: Path,
    tmp_path: Path,
    bits: int,
    group_size: int,
    train: str,
    dense_weights: float,
) -> None:
    settings = config(**SMALL_L4Q, rank=4, epochs=6, train=train)
    report = finetune(source, None, sums, tmp_path, settings, bits=bits, group_size=group_size)
    assert report.validation_loss.after < 0.9 * report.validation_loss.before
    # it holds those weights of a Llama-2-7B's blocks that are trained in fp32
    assert report.projected_memory_bytes["Llama-2-7B"] > 32 * dense_weights * 4
    content = json.loads((tmp_path / "model" / "config.json").read_text())
    scheme = content["quantization_config"]["config_groups"]["group_0"]["weights"]
    stored = None if group_size == -1 else group_size
    assert (scheme["num_bits"], scheme["group_size"]) == (bits, stored)
    found = stock_loss(tmp_path, sums, None)
    assert found == pytest.approx(report.validation_loss.after, rel=0.5)  # of all rows


@pytest.mark.parametrize("method", ["lora", "l4q"])
def test_rotary_tables_in_a_checkpoint_are_no_hindrance(
    source: Path, sums: Path, tmp_path: Path, method: str
) -> None:
    """Checkpoints as old as Llama-2's hold them, in every block."""
    older = Path(shutil.copytree(source, tmp_path / "older"))
    tensors = load_file(older / "model.safetensors")
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
    save_file(tensors, older / "model.safetensors", metadata={"format": "pt"})
    settings = config(method=method, rank=4, max_steps=1)
    found, wanted = (
        finetune(
            folder,
            None,
            sums,
            tmp_path / folder.name,
            settings,
            bits=2 if method == "l4q" else None,
        )
        for folder in (older, source)
    )
    assert found.validation_loss == wanted.validation_loss


def test_l4q_starts_at_the_jobs_own_integers_where_there_is_no_adapter(bare: Path) -> None:
    device = torch.device("cpu")
    plain = load_model(bare / "model", device, torch.float32)
    trained = load_model(bare / "model", device, torch.float32)
    l4q.attach(trained, Base(bare / "model"), config(**SMALL_L4Q))
    tokens = torch.arange(40).unsqueeze(0)
    with torch.no_grad():
        assert torch.equal(trained(tokens).logits, plain(tokens).logits)


def test_l4q_starts_with_the_jobs_adapter_inside(base: Path) -> None:
    model = load_model(base / "model", torch.device("cpu"), torch.float32)
    l4q.attach(model, Base(base / "model", base / "adapter"), config(**SMALL_L4Q))
    factors = load_file(base / "adapter" / "adapter_model.safetensors")
    layers = {n: m for n, m in model.named_modules() if isinstance(m, L4QLinear)}
    assert len(factors) == 2 * len(layers) == 28
    for name, layer in layers.items():
        assert torch.equal(layer.a.half(), factors[f"base_model.model.{name}.lora_A.weight"])
        assert torch.equal(layer.b.half(), factors[f"base_model.model.{name}.lora_B.weight"])


@pytest.mark.parametrize("train", ["attention", "mlp"])
def test_only_the_chosen_layers_are_trained(
    bare: Path, sums: Path, tmp_path: Path, train: str
) -> None:
    run(bare, sums, tmp_path, config(**SMALL_L4Q, train=train))
    before, after = weights(bare), weights(tmp_path)
    moved = {
        name.rpartition(".")[0] for name in before if not torch.equal(before[name], after[name])
    }
    part = {"attention": ".self_attn.", "mlp": ".mlp."}[train]
    assert moved and all(part in name for name in moved)


@pytest.mark.parametrize("method", ["lora", "qa-lora"])
@pytest.mark.parametrize(
    ("train", "layers"),
    [
        ("attention", {"k_proj", "o_proj", "q_proj", "v_proj"}),
        ("mlp", {"down_proj", "gate_proj", "up_proj"}),
    ],
)
def test_a_new_adapter_has_no_layers_but_the_chosen(
    bare: Path, sums: Path, tmp_path: Path, method: str, train: str, layers: set[str]
) -> None:
    report = run(bare, sums, tmp_path, config(method=method, train=train, rank=4, epochs=1))
    tensors = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert {name.split(".")[-3] for name in tensors} == layers
    assert all(bool(tensor.any()) for tensor in tensors.values())
    content = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert set(content["target_modules"]) == layers
    if method == "lora":
        assert report.trained_parameters == sum(tensor.numel() for tensor in tensors.values())
    assert stock_loss(bare, sums, tmp_path / "adapter") < stock_loss(bare, sums, None)


@pytest.mark.parametrize("method", ["l4q", "qa-lora"])
@pytest.mark.parametrize("step", [1, 9])
def test_stopped_and_resumed_gives_the_same_bytes(
    bare: Path, sums: Path, tmp_path: Path, method: str, step: int
) -> None:
    settings = config(method=method, lr_quantizer=1e-2)
    run(bare, sums, tmp_path / "whole", settings)
    should_stop, on_event = stop_after(step)
    with pytest.raises(Stopped):
        run(bare, sums, tmp_path / "parts", settings, should_stop=should_stop, on_event=on_event)
    events: list[Event] = []
    run(bare, sums, tmp_path / "parts", settings, on_event=events.append)
    assert [e.data["step"] for e in events if e.type == "resumed"] == [step]
    folder = {"l4q": "model", "qa-lora": "adapter"}[method]
    files = sorted((tmp_path / "whole" / folder).iterdir())
    assert any(file.suffix == ".safetensors" for file in files)
    for file in files:
        assert file.read_bytes() == (tmp_path / "parts" / folder / file.name).read_bytes()


def test_qa_lora_learns_and_its_adapter_loads_like_any_other(
    bare: Path, sums: Path, tmp_path: Path
) -> None:
    report = run(bare, sums, tmp_path, config(method="qa-lora", rank=4, epochs=6))
    assert report.validation_loss.after < 0.8 * report.validation_loss.before
    adapter = tmp_path / "adapter"
    assert stock_loss(bare, sums, adapter) < 0.8 * stock_loss(bare, sums, None)
    factors = load_file(adapter / "adapter_model.safetensors")
    for name, factor in factors.items():
        if name.endswith("lora_A.weight"):
            groups = factor.unflatten(1, (-1, 32))
            assert torch.equal(groups, groups[..., :1].expand_as(groups))
    groups_of_inputs = [f.shape[1] // 32 for n, f in factors.items() if "lora_A" in n]
    up = sum(f.numel() for n, f in factors.items() if "lora_B" in n)
    assert report.trained_parameters == up + 4 * sum(groups_of_inputs)


@pytest.mark.parametrize(
    ("of", "fields", "more", "code"),
    [
        ("source", {"method": "l4q"}, {}, "illegal_bits"),
        ("source", {"method": "l4q"}, {"bits": 5}, "illegal_bits"),
        ("source", {"method": "l4q"}, {"bits": 2, "group_size": 16}, "illegal_group_size"),
        ("source", {"method": "l4q"}, {"bits": 2, "group_size": 128}, "group_size_does_not_divide"),
        ("source", {}, {"bits": 2}, "illegal_bits"),
        ("base", {"method": "l4q"}, {"bits": 2}, "illegal_bits"),
        ("base", {"method": "l4q"}, {"group_size": 64}, "illegal_group_size"),
        ("base", {"method": "l4q", "rank": 4}, {}, "illegal_rank"),
        ("ia3", {"method": "l4q"}, {}, "illegal_base"),
        ("base", {"method": "qa-lora"}, {}, "illegal_base"),
        ("source", {"method": "qa-lora"}, {}, "illegal_base"),
        ("channels", {"method": "qa-lora"}, {}, "illegal_base"),
    ],
)
def test_what_a_method_cannot_begin_with(
    base: Path,
    source: Path,
    sums: Path,
    tmp_path: Path,
    of: str,
    fields: dict[str, Any],
    more: dict[str, Any],
    code: str,
) -> None:
    made: dict[str, dict[str, Any]] = {
        "ia3": {"bits": 4, "adapter": "ia3", "rank": None},
        "channels": {"group_size": -1, "rank": 0},
    }
    folder = quantized(tmp_path, **made[of]) if of in made else base
    model_dir = source if of == "source" else folder / "model"
    adapter_dir = None if of in ("source", "channels") else folder / "adapter"
    with pytest.raises(UserError) as caught:
        finetune(model_dir, adapter_dir, sums, tmp_path / "out", config(**fields), **more)
    assert caught.value.code == code
