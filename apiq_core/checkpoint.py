"""Reading a safetensors checkpoint tensor by tensor, and writing files that appear whole."""

import errno
import os
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from apiq_core.errors import InfraError, UserError
from apiq_core.inspect import weight_files

# mapped pages of a checkpoint would stay resident, so that memory grew with the number of blocks
BACKEND = "pread"


class Checkpoint:
    """The tensors of a checkpoint folder by name; only what is asked for is read."""

    def __init__(self, model_dir: Path) -> None:
        self._stack = ExitStack()
        self._holder: dict[str, Any] = {}
        for file in weight_files(model_dir):
            try:
                opened = safe_open(file, framework="pt", backend=BACKEND)
            except SafetensorError as error:
                raise UserError(
                    "corrupt_weights",
                    f"{file.name} is truncated or corrupt: {error}",
                    param="model",
                ) from None
            handle = self._stack.enter_context(opened)
            self._holder |= dict.fromkeys(handle.keys(), handle)

    @property
    def names(self) -> Iterable[str]:
        return self._holder.keys()

    def __contains__(self, name: str) -> bool:
        return name in self._holder

    def load(self, name: str, dtype: torch.dtype | None = None) -> Tensor:
        """One tensor on the CPU, in its stored dtype or in `dtype`.

        Raises `UserError(corrupt_weights)` if it is not there, cannot be read or holds a NaN or
        infinity.
        """
        if name not in self:
            raise UserError("corrupt_weights", f"the checkpoint has no {name}", param="model")
        try:
            tensor: Tensor = self._holder[name].get_tensor(name)
        except SafetensorError as error:
            raise UserError("corrupt_weights", f"{name}: {error}", param="model") from None
        if not torch.isfinite(tensor).all():
            raise UserError(
                "corrupt_weights", f"{name} holds values that are not finite", param="model"
            )
        return tensor if dtype is None else tensor.to(dtype)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()


@contextmanager
def disk_errors() -> Any:
    """Turn a full disk, however a library words it, into `InfraError(disk_full)`."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise InfraError("disk_full", f"no space left on the disk: {error}") from None
    except SafetensorError as error:
        if "No space left" not in str(error):
            raise
        raise InfraError("disk_full", f"no space left on the disk: {error}") from None


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file that either is whole or is not there."""
    temporary = path.with_name("." + path.name + ".tmp")
    with disk_errors():
        try:
            save_file(
                {name: tensor.contiguous().cpu() for name, tensor in tensors.items()},
                temporary,
                metadata={"format": "pt", **(metadata or {})},
            )
            _settle(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file that either is whole or is not there."""
    temporary = path.with_name("." + path.name + ".tmp")
    with disk_errors():
        try:
            temporary.write_text(text, encoding="utf-8")
            _settle(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def _settle(temporary: Path, path: Path) -> None:
    temporary.chmod(0o644)  # save_file writes 0600
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path)
