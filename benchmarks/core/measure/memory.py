"""The memory and time of a run alone; nothing is read back or scored."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from apiq_core.config import QuantizeConfig
from apiq_core.quantize import quantize
from benchmarks.core.texts import CALIBRATED

STATUS = Path("/proc/self/status")
EVERY_S = 0.02


def figures(config: dict[str, Any], inputs: dict[str, Path], work_dir: Path) -> dict[str, Any]:
    quantize_config = QuantizeConfig.model_validate(config["quantize"])
    texts = {CALIBRATED: inputs["calibrated"]}
    before = resident()
    with largest() as peak:
        report = quantize(inputs["model"], work_dir / "out", quantize_config, texts=texts)
    return {
        "before_bytes": before,
        "peak_by_kind_bytes": peak,
        "peak_memory_bytes": report.peak_memory_bytes,
        "seconds": report.seconds,
        "block_seconds": [block.seconds for block in report.blocks],
    }


def resident() -> dict[str, int]:
    """Resident bytes now: `anonymous` is allocated, `file` is what is mapped, such as weights,
    and can be dropped whenever something else needs the room."""
    found = dict(re.findall(r"Rss(Anon|File):\s+(\d+) kB", STATUS.read_text()))
    return {"anonymous": int(found["Anon"]) * 1024, "file": int(found["File"]) * 1024}


@contextmanager
def largest() -> Iterator[dict[str, int]]:
    """The largest of each kind that was seen while the `with` lasted."""
    peak = resident()
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(EVERY_S):
            for kind, size_bytes in resident().items():
                peak[kind] = max(peak[kind], size_bytes)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        ended.set()
        watcher.join()
