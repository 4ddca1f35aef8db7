"""A child process that goes through every phase and can be held in each.

What it makes depends on nothing but its finished blocks, as what the real one makes.
"""

import hashlib
import json
import shutil
import sys
from typing import Any

from apiq_core.errors import Stopped
from apiq_core.events import Event
from apiq_core.layout import block_file, blocks_dir
from tests.fault.campaign.points import CANCELLING, MADE, PHASES, reach
from tests.fault.worker.scripted_child import make_blocks
from worker.wire import Link, serve

BLOCKS = 3
MODEL_BYTES = 9 * 1024 * 1024  # more than one part of an upload to S3


def model(blocks: list[bytes]) -> bytes:
    return b"".join(blocks).ljust(MODEL_BYTES, b"\0")


PUBLISHED_SHA256 = {
    "model/model.safetensors": hashlib.sha256(
        model([f"block {number}".encode() for number in range(BLOCKS)])
    ).hexdigest()
}


def work(link: Link) -> dict[str, Any]:
    link.spec.out_dir.mkdir(parents=True, exist_ok=True)
    stop_at(link, "claimed")
    for phase in PHASES:
        link.on_event(Event("phase", {"phase": phase}))
        if phase == "quantizing":
            quantize(link)
        if phase == "packaging":
            (link.spec.out_dir / "model").mkdir(exist_ok=True)
            (link.spec.out_dir / "model" / "config.json").write_text('{"half": "written')
        stop_at(link, phase)
    package(link)
    stop_at(link, MADE)
    return {"metrics": {"bits_per_weight": 2.5}, "text_sha256": {}}


def stop_at(link: Link, point: str) -> None:
    reach(point, link.should_stop)
    if link.should_stop():
        raise Stopped


def quantize(link: Link) -> None:
    """The point is behind the first block."""
    there = len(list(blocks_dir(link.spec.out_dir).glob("*")))
    for block in range(there, BLOCKS):
        make_blocks(link, 1)
        progress = {"done": block + 1, "total": BLOCKS, "unit": "block", "percent": 50.0}
        link.on_event(Event("progress", progress))
        reach(CANCELLING)
        stop_at(link, "quantizing")


def package(link: Link) -> None:
    out_dir = link.spec.out_dir
    blocks = [block_file(out_dir, block).read_bytes() for block in range(BLOCKS)]
    (out_dir / "model" / "model.safetensors").write_bytes(model(blocks))
    (out_dir / "model" / "config.json").write_text(json.dumps({"attempt": link.spec.attempt}))
    (out_dir / "README.md").write_text("# Done\n")
    shutil.rmtree(blocks_dir(out_dir))


if __name__ == "__main__":
    sys.exit(serve(work))
