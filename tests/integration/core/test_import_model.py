"""Bringing models in: folders, GGUF files, and what is refused."""

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from apiq_core.errors import UserError
from apiq_core.import_model import import_model, main
from apiq_core.inspect import inspect_model
from tests.tiny_models import make_tiny


def test_a_folder_is_copied_without_what_is_not_needed(tmp_path: Path) -> None:
    source = make_tiny(tmp_path / "source")
    (source / "modeling_evil.py").write_text("raise SystemExit")
    (source / "pytorch_model.bin").write_bytes(b"pickle")
    target = import_model(str(source), "org/name", tmp_path / "models")
    assert target == tmp_path / "models" / "org" / "name"
    assert inspect_model(target) == inspect_model(source)
    names = {path.name for path in target.iterdir()}
    assert not names & {"modeling_evil.py", "pytorch_model.bin"}


@pytest.mark.parametrize("name", ["../x", "a/b/c", "a\nb", "/abs", "ä/b", "", "a..b", "a/.b"])
def test_names_that_are_no_model_id(name: str, tmp_path: Path) -> None:
    source = make_tiny(tmp_path / "source")
    with pytest.raises(UserError) as caught:
        import_model(str(source), name, tmp_path / "models")
    assert caught.value.code == "illegal_model_id"
    assert "legal: `name` or `org/name`" in caught.value.message


def test_a_name_that_is_taken_is_not_overwritten(tmp_path: Path) -> None:
    source = make_tiny(tmp_path / "source")
    import_model(str(source), "name", tmp_path / "models")
    with pytest.raises(UserError) as caught:
        import_model(str(source), "name", tmp_path / "models")
    assert caught.value.code == "model_exists"


@pytest.mark.parametrize("source", ["pip:no-such-package", "/no/such/folder", "pip:pytest"])
def test_sources_that_are_not_there(source: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        import_model(source, "name", tmp_path / "models")
    assert caught.value.code == "source_not_found"


def test_what_could_not_be_quantized_is_not_imported(tmp_path: Path) -> None:
    source = make_tiny(tmp_path / "source")
    (source / "tokenizer.json").unlink()
    with pytest.raises(UserError) as caught:
        import_model(str(source), "name", tmp_path / "models")
    assert caught.value.code == "missing_tokenizer"
    assert list((tmp_path / "models").iterdir()) == []


def test_the_command_says_what_is_wrong_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["prog", "/no/such", "--name", "x", "--models-dir", str(tmp_path)]
    monkeypatch.setattr("sys.argv", arguments)
    assert main() == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "[source_not_found]" in error


def test_a_gguf_becomes_a_checkpoint_with_the_same_weights(tmp_path: Path) -> None:
    weights = write_gguf(tmp_path / "tiny.gguf")
    target = import_model(str(tmp_path / "tiny.gguf"), "tiny", tmp_path / "models")
    facts = inspect_model(target)
    assert facts.block_count == 1 and facts.model_type == "llama"
    model = AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32)
    up = model.model.layers[0].mlp.up_proj.weight.detach().numpy()
    assert np.abs(up - weights["blk.0.ffn_up.weight"]).max() < 1e-2  # bf16
    assert all(path.stat().st_mode & 0o044 for path in target.iterdir())


def test_a_file_that_is_no_gguf_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(UserError) as caught:
        import_model(str(tmp_path / "bad.gguf"), "bad", tmp_path / "models")
    assert caught.value.code == "corrupt_gguf"


def write_gguf(path: Path) -> dict[str, np.ndarray]:
    """One random Llama block of width 64 with a byte-level vocabulary."""
    generator = np.random.default_rng(0)
    tokens = ["<s>", "</s>", *(chr(33 + i) for i in range(94)), "ab"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(128)
    writer.add_embedding_length(64)
    writer.add_feed_forward_length(128)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3] + [1] * 95)
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    shapes = {
        "token_embd.weight": (len(tokens), 64),
        "output_norm.weight": (64,),
        "blk.0.attn_norm.weight": (64,),
        "blk.0.ffn_norm.weight": (64,),
        "blk.0.attn_q.weight": (64, 64),
        "blk.0.attn_k.weight": (32, 64),
        "blk.0.attn_v.weight": (32, 64),
        "blk.0.attn_output.weight": (64, 64),
        "blk.0.ffn_gate.weight": (128, 64),
        "blk.0.ffn_up.weight": (128, 64),
        "blk.0.ffn_down.weight": (64, 128),
    }
    weights = {
        name: generator.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()
    }
    for name, weight in weights.items():
        writer.add_tensor(name, weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return weights
