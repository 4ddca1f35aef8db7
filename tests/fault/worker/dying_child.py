"""The real child, killed by signal 9 around a block or behind a step: `dying_child.py WHEN NUMBER`.

WHEN is `told`, right after it told of the block, `written`, when the block's file is there and
nobody knows, or `trained`, right after it told of the step.
"""

import os
import signal
import sys
from typing import Any

from apiq_core.events import Event
from apiq_core.layout import block_file
from worker.child import work as real_work
from worker.wire import Link, serve


def work(link: Link) -> dict[str, Any]:
    when, block = sys.argv[1], int(sys.argv[2])
    tell = link.on_event

    def tell_and_die(event: Event) -> None:
        is_it = event.type == "block" and event.data["index"] == block
        if when == "trained":
            is_it = event.type == "progress" and event.data["done"] == block
        if is_it and when == "written":
            assert block_file(link.spec.out_dir, block).exists()
            os.kill(os.getpid(), signal.SIGKILL)
        tell(event)
        if is_it:
            os.kill(os.getpid(), signal.SIGKILL)

    link.on_event = tell_and_die  # type: ignore[method-assign]
    return real_work(link)


if __name__ == "__main__":
    sys.exit(serve(work))
