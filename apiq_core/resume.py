"""Taking over the blocks that an earlier run finished in the same place.

Only what cannot be told from what this run would make is taken: the same identity, and every
block from the first on. The rest is deleted, and an event says why.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError
from safetensors import SafetensorError, safe_open

from apiq_core.events import Event, OnEvent
from apiq_core.identity import Identity, differing
from apiq_core.layout import block_file, blocks_dir
from apiq_core.reports.report import BlockReport


def to_metadata(report: BlockReport, identity: Identity) -> dict[str, str]:
    """What a block's file says of itself."""
    # not pydantic's JSON: it writes null for a loss that is not finite, and reads none back.
    # The error is not known yet; whoever takes the block over measures it when running it
    figures = json.dumps(report.model_dump(exclude={"error"}))
    return {"report": figures, "identity": json.dumps(identity)}


def earlier_plan(out_dir: Path, identity: Identity) -> str | None:
    """The plan of an earlier run's first block, if all else of its identity is this run's."""
    try:
        earlier = json.loads(_metadata(block_file(out_dir, 0))["identity"])
    except (SafetensorError, OSError, KeyError, ValueError):
        return None
    plan = earlier.pop("plan", None)
    return plan if isinstance(plan, str) and not differing(earlier, identity) else None


def take_over(out_dir: Path, identity: Identity, on_event: OnEvent) -> list[BlockReport]:
    """The reports of the blocks that are taken over; deletes all others."""
    reports: list[BlockReport] = []
    while (file := block_file(out_dir, len(reports))).exists():
        try:
            metadata = _metadata(file)
            differs = differing(json.loads(metadata["identity"]), identity)
            if not differs:
                reports.append(BlockReport.model_validate(json.loads(metadata["report"])))
                continue
            why = f"was made with another {', '.join(differs)}"
        except (SafetensorError, OSError, KeyError, ValueError, ValidationError) as error:
            differs, why = [], f"cannot be read: {error}"
        index = len(reports)
        message = f"block {index} of an earlier run {why}; it and later blocks are made anew"
        data = {"code": "checkpoint_discarded", "message": message}
        on_event(Event("warning", data | {"block": index, "differs": differs}))
        break
    _delete_all_but(out_dir, {block_file(out_dir, index) for index in range(len(reports))})
    return reports


def _metadata(file: Path) -> Mapping[str, str]:
    """Opening it also finds a file that was cut short."""
    with safe_open(file, framework="pt") as tensors:
        return tensors.metadata() or {}


def _delete_all_but(out_dir: Path, kept: set[Path]) -> None:
    for path in blocks_dir(out_dir).glob("*"):
        if path.is_dir():
            shutil.rmtree(path)
        elif path not in kept:
            path.unlink()
