"""A child process that does what the job's input says instead of quantizing.

It speaks to its supervisor through the same wire as the real one; only the work is another.
"""

import errno
import json
import math
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

from apiq_core.errors import InfraError, Stopped, UserError
from apiq_core.events import Event
from apiq_core.layout import block_file, blocks_dir
from jobs.errors import StoreUnavailable
from worker.wire import Link, serve

TICK_S = 0.02
ODD = "a\x00b\ud800c"  # what no row takes
METRICS = {"odd_figures": {"answer": math.inf, "of_each": [1.5, -math.inf]}}


def work(link: Link) -> dict[str, Any]:
    todo = link.spec.input
    if "leaks" in todo:
        leak(link)
    if "pid_file" in todo:
        with Path(todo["pid_file"]).open("a") as file:
            file.write(f"{os.getpid()}\n")
    print(f"attempt {link.spec.attempt} says hello", flush=True)
    print(todo.get("say", ""), flush=True)
    print("settings in the environment:", *(k for k in os.environ if k.startswith("APIQ_")))
    link.on_event(Event("phase", {"phase": "quantizing"}))
    out_dir = link.spec.out_dir
    (out_dir / "model").mkdir(parents=True)
    (out_dir / "model" / "config.json").write_text('{"half": "written')
    if "blocks" in todo:  # how many each attempt makes; later ones none
        make_blocks(link, dict(enumerate(todo["blocks"], 1)).get(link.spec.attempt, 0))
    if link.spec.attempt <= todo.get("bad_attempts", 1000):
        misbehave(todo.get("how", "finish"), link)
    (out_dir / "model" / "config.json").write_text(json.dumps({"attempt": link.spec.attempt}))
    (out_dir / "model" / "model.safetensors").write_bytes(bytes(todo.get("size_bytes", 10)))
    (out_dir / "README.md").write_text("# Done\n")
    if "blocks" in todo:
        shutil.rmtree(blocks_dir(out_dir), ignore_errors=True)
    else:
        for index in range(3):
            link.on_event(Event("block", {"index": index}))
    link.on_event(Event("progress", {"done": 3, "total": 3, "unit": "block"}))
    metrics = METRICS.get(todo.get("how", "finish"), {"answer": 42})
    return {"metrics": metrics, "text_sha256": {"builtin": "0" * 64}}


def make_blocks(link: Link, count: int) -> None:
    """Go on behind the blocks that are there."""
    first = len(list(blocks_dir(link.spec.out_dir).glob("*")))
    print(f"{first} blocks are there", flush=True)
    for index in range(first, first + count):
        file = block_file(link.spec.out_dir, index)
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"block {index}")
        link.on_event(Event("block", {"index": index}))


def leak(link: Link) -> None:
    """Tell the job's hub token to everybody."""
    token = link.spec.hub_token
    print(f"the token is {token}", flush=True)
    link.on_event(Event("phase", {"phase": "leaking"}))
    link.on_event(Event("block", {"note": [f"with {token}", {str(token): 1}]}))
    link.on_event(Event("progress", {"done": 1, "total": 2, "unit": f"{token}"}))
    if link.spec.input["leaks"] == "raise":
        raise RuntimeError(f"no access with {token}")
    raise UserError("model_gated", f"no access with {token}", param="model", value=token)


def misbehave(how: str, link: Link) -> None:
    match how:
        case "finish":
            return
        case "odd_name":  # that no artifact store takes
            (link.spec.out_dir / "model" / "no such key").write_text("")
        case "wait":  # until told to stop
            while not link.should_stop():
                time.sleep(TICK_S)
            raise Stopped
        case "deaf":
            time.sleep(600)
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "raise":
            raise RuntimeError("the matrix is singular, token hf_abcdefghijklmnop")
        case "exit_zero":
            os._exit(0)
        case "exit_two":
            os._exit(2)
        case "odd_figures":
            link.on_event(Event("metrics", {"step": 1, "train_loss": math.nan}))
            link.on_event(Event("progress", {"done": 1, "total": 3, "percent": math.nan}))
        case "odd_error":
            link.on_event(Event("warning", {"code": "odd", ODD: [ODD]}))
            raise UserError("bad_rows", f"a row has {ODD}", param="dataset", value=ODD)
        case "odd_last_words":
            print("the last words: a\x00b", file=sys.stderr, flush=True)
            os._exit(1)
        case "stop_unasked":
            raise Stopped
        case "user_error":
            raise UserError("group_too_large", "the group does not fit", param="group_size")
        case "infra_error":
            raise InfraError("hub_unreachable", "the hub does not answer")
        case "store_away":
            raise StoreUnavailable("could not read datasets/ds_1/data.txt: no connection")
        case "disk_full":
            with open("/dev/full", "wb") as file:  # the kernel's own ENOSPC
                file.write(b"x")
        case "disk_quota":
            raise OSError(errno.EDQUOT, "Disk quota exceeded")
        case _:
            raise AssertionError(how)


if __name__ == "__main__":
    sys.exit(serve(work))
