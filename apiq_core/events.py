"""What a run tells its caller while it works.

| type       | data                                                              |
|------------|-------------------------------------------------------------------|
| `phase`    | `phase`: see below                                                |
| `progress` | `done`, `total`, `unit`, `percent`, `eta_seconds` (null: unknown) |
| `resumed`  | `blocks`: so many were taken over from an earlier run             |
| `block`    | `index`, `error`, `seconds`: one block is quantized and written   |
| `warning`  | `code`, `message`: the run goes on                                |

Phases are calibrating, planning (only for `bits_per_weight`), quantizing, polishing (only for
recipe `best`), evaluating and packaging.

Warnings are `diverged`, which the report repeats, and `checkpoint_discarded` with `block`, the
first of the earlier run's blocks that was not taken over, and `differs`, the fields of the
identity why (empty: it could not be read).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

EventType = Literal["phase", "progress", "resumed", "block", "warning"]


@dataclass(frozen=True)
class Event:
    type: EventType
    data: dict[str, Any]


OnEvent = Callable[[Event], None]
ShouldStop = Callable[[], bool]
CheckStop = Callable[[], None]  # raises `Stopped` where the run is to end
