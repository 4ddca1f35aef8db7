"""The loss in parts is the loss, and so is its gradient."""

from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

import apiq_core.finetune.loss as loss
from apiq_core.finetune.data.batches import IGNORED
from tests.tiny_models import make_tiny


@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("training", [False, True])
def test_loss_and_gradient(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, softcap: float | None, training: bool
) -> None:
    monkeypatch.setattr(loss, "LOGIT_TOKENS", 7)
    monkeypatch.setattr(loss, "matmul_dtype", lambda device: torch.float32)
    model = AutoModelForCausalLM.from_pretrained(make_tiny(tmp_path / "m"), dtype=torch.float32)
    model.config.final_logit_softcapping = softcap
    model.requires_grad_(False).train(training)
    weight = model.get_decoder().layers[0].mlp.down_proj.weight.requires_grad_()
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 500, (3, 20), generator=generator)
    labels = torch.where(torch.rand(3, 20, generator=generator) < 0.6, tokens, IGNORED)

    ours, count = loss.summed_loss(model, tokens, labels)
    (ours / count).backward()
    given, weight.grad = weight.grad, None
    logits = model.lm_head(model.get_decoder()(tokens).last_hidden_state)
    if softcap:
        logits = softcap * torch.tanh(logits / softcap)
    wanted = cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    wanted.backward()
    assert count == int((labels[:, 1:] != IGNORED).sum())
    torch.testing.assert_close(ours / count, wanted)
    torch.testing.assert_close(given, weight.grad, rtol=1e-4, atol=1e-7)


def test_nothing_is_kept_where_no_gradient_is_wanted(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(make_tiny(tmp_path / "m"), dtype=torch.float32)
    tokens = torch.arange(10).view(1, 10)
    with torch.no_grad():
        total, _ = loss.summed_loss(model, tokens, tokens)
    assert not total.requires_grad
