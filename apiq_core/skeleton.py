"""The model without its weights: which blocks it has, and how one of them is called alone.

The model lives on the meta device; weights are dictionaries that come and go. A block is run
with `torch.func.functional_call`, so the same module serves as teacher (its own weights), as
student (Q + B A) and, with gradients, in training.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn
from torch.func import functional_call
from transformers import AutoConfig, AutoModelForCausalLM

from apiq_core.checkpoint import Checkpoint
from apiq_core.errors import UserError
from apiq_core.tokenizer import check_ids

Weights = Mapping[str, Tensor]  # names relative to the block
LOGIT_TOKENS = 128  # to run the head on at a time: logits are wide


class Skeleton:
    """A decoder on the meta device. Buffers (rotary tables) are real, on `device`.

    Weights and activations are of `dtype`; with a `matmul_dtype` that differs, the matrix products
    inside the blocks are computed in that (autocast).
    """

    def __init__(
        self,
        model_dir: Path,
        device: torch.device,
        dtype: torch.dtype,
        matmul_dtype: torch.dtype | None = None,
    ) -> None:
        config = AutoConfig.from_pretrained(
            model_dir, local_files_only=True, trust_remote_code=False
        )
        with init_empty_weights(include_buffers=False):
            model = AutoModelForCausalLM.from_config(
                config, dtype=dtype, attn_implementation="sdpa", trust_remote_code=False
            )
        self.model = model.eval().requires_grad_(False)
        for module in self.model.modules():
            for name, buffer in module.named_buffers(recurse=False):
                module.register_buffer(name, buffer.to(device), persistent=False)
        self.device = device
        self.dtype = dtype
        self.matmul_dtype = matmul_dtype or dtype
        self.prefix, blocks = find_blocks(self.model)
        self.blocks: list[nn.Module] = list(blocks)
        if self.matmul_dtype != dtype:
            for block in self.blocks:
                autocast = torch.autocast(device.type, self.matmul_dtype, cache_enabled=False)
                block.forward = autocast(block.forward)
        self.linears = [
            name for name, module in self.blocks[0].named_modules() if isinstance(module, nn.Linear)
        ]
        # linear layers outside the blocks (lm_head): they stay as they are
        self.dense_linears = [
            name
            for name, module in self.model.named_modules()
            if isinstance(module, nn.Linear) and not name.startswith(self.prefix + ".")
        ]

    def block_name(self, index: int) -> str:
        return f"{self.prefix}.{index}"

    def load_block(self, checkpoint: Checkpoint, index: int) -> dict[str, Tensor]:
        """The full-precision weights of one block, in the compute dtype, on the device.

        A checkpoint may hold more under a block's name: Llama-2's has rotary tables that are
        computed today.
        """
        block, prefix = self.blocks[index], self.block_name(index)
        tensors = (*block.named_parameters(), *block.named_buffers())
        return {
            name: checkpoint.load(f"{prefix}.{name}", self.dtype).to(self.device, non_blocking=True)
            for name, _ in tensors
            if f"{prefix}.{name}" in checkpoint
        }

    def embed(self, checkpoint: Checkpoint, tokens: Tensor) -> tuple[Tensor, list[dict[str, Any]]]:
        """Hidden states before block 0 (windows, length, width), and each block's own arguments.

        Masks and rotary tables differ by layer in some models, so every block's arguments are
        captured; they are taken from one window and broadcast over any batch, which is right
        because windows have one length and no padding.
        """
        name = _parameter_name(self.model, self.model.get_input_embeddings().weight)
        weight = checkpoint.load(name, self.dtype).to(self.device)
        check_ids(int(tokens.max()), len(weight))
        embedding = self.model.get_input_embeddings()
        hidden = torch.cat(
            [
                functional_call(embedding, {"weight": weight}, (batch.to(self.device),)).cpu()
                for batch in tokens.split(8)
            ]
        )
        calls = self._capture(hidden[:1].to(self.device))
        return hidden, calls

    def _capture(self, hidden: Tensor) -> list[dict[str, Any]]:
        calls: list[dict[str, Any]] = []

        def pass_through(states: Tensor, **kwargs: Any) -> Tensor:
            calls.append(kwargs)
            if len(calls) == len(self.blocks):
                raise _Captured
            return states

        with ExitStack() as restore:
            for block in self.blocks:
                restore.callback(setattr, block, "forward", block.forward)
                block.forward = pass_through
            with suppress(_Captured), torch.no_grad():
                self.model(inputs_embeds=hidden, use_cache=False)
        return [call | {"past_key_values": None, "use_cache": False} for call in calls]

    def head(self, checkpoint: Checkpoint) -> "Head":
        """Final norm and output projection."""
        return Head(self, checkpoint)


class Head:
    """What follows the last block: final norm and output projection, with their weights."""

    def __init__(self, skeleton: Skeleton, checkpoint: Checkpoint) -> None:
        model = skeleton.model
        self._norm = model.get_decoder().norm
        self._projection = model.get_output_embeddings()
        self._softcap = getattr(model.config, "final_logit_softcapping", None)

        def load(module: nn.Module, parameter: Tensor) -> Tensor:
            name = _parameter_name(model, parameter)
            if name not in checkpoint:  # tied: stored once, under the embedding's name
                name = _parameter_name(model, model.get_input_embeddings().weight)
            return checkpoint.load(name, skeleton.dtype).to(skeleton.device)

        self._norm_weights = {n: load(self._norm, p) for n, p in self._norm.named_parameters()}
        self._projection_weights = {
            n: load(self._projection, p) for n, p in self._projection.named_parameters()
        }

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., width) after the last block -> (..., vocabulary), fp32."""
        normed = functional_call(self._norm, self._norm_weights, (hidden,))
        logits: Tensor = functional_call(self._projection, self._projection_weights, (normed,))
        logits = logits.float()
        if self._softcap:
            logits = torch.tanh(logits / self._softcap) * self._softcap
        return logits


def run_block(block: nn.Module, weights: Weights, hidden: Tensor, call: dict[str, Any]) -> Tensor:
    """One block on (batch, length, width) with the given weights and its captured arguments."""
    out: Tensor | tuple[Tensor, ...] = functional_call(block, dict(weights), (hidden,), call)
    return out[0] if isinstance(out, tuple) else out


class _Captured(Exception):
    """All blocks have been called."""


class _Reached(Exception):
    """The layer whose input was wanted has been called."""


def layer_inputs(
    block: nn.Module, weights: Weights, hidden: Tensor, call: dict[str, Any], until: str = ""
) -> dict[str, Tensor]:
    """What the block's linear layers receive, (batch, length, I), in the order of their calls.

    Layers that share an input share the tensor. With `until` the block runs no further than to
    that layer.
    """
    inputs: dict[str, Tensor] = {}
    with ExitStack() as hooks:
        for name, module in block.named_modules():
            if isinstance(module, nn.Linear):

                def take(_: nn.Module, args: tuple[Tensor, ...], name: str = name) -> None:
                    inputs[name] = args[0]
                    if name == until:
                        raise _Reached

                hooks.callback(module.register_forward_pre_hook(take).remove)
        with suppress(_Reached), torch.no_grad():
            run_block(block, weights, hidden, call)
    return inputs


def input_groups(
    block: nn.Module, weights: Weights, hidden: Tensor, call: dict[str, Any]
) -> list[list[str]]:
    """The block's linear layers, grouped by shared input, in the order of their calls."""
    groups: dict[int, list[str]] = {}
    inputs = layer_inputs(block, weights, hidden, call)  # alive, so that no id is used twice
    for name, tensor in inputs.items():
        groups.setdefault(id(tensor), []).append(name)
    return list(groups.values())


def find_blocks(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """The ModuleList of same-class children with the most parameters."""

    def size(blocks: Sequence[nn.Module]) -> int:
        return sum(parameter.numel() for block in blocks for parameter in block.parameters())

    lists = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len({type(child) for child in module}) == 1
    ]
    if not lists:
        raise UserError("unsupported_architecture", "the model has no list of blocks")
    return max(lists, key=lambda item: size(list(item[1])))


def _parameter_name(model: nn.Module, parameter: Tensor) -> str:
    for name, candidate in model.named_parameters(remove_duplicate=False):
        if candidate is parameter:
            return name
    raise UserError("unsupported_architecture", "an embedding is not a parameter of the model")
