"""What a run tells its caller while it works.

| type       | data                                                              |
|------------|-------------------------------------------------------------------|
| `phase`    | `phase`: see below                                                |
| `progress` | `done`, `total`, `unit`, `percent`, `eta_seconds` (null: unknown) |
| `resumed`  | `blocks`: so many were taken over from an earlier run; or `step`  |
| `block`    | `index`, `error`, `seconds`: one block is quantized and written   |
| `metrics`  | a point of a training run: `step`, losses, `lr`, `tokens_per_s`   |
| `checkpoint` | `step`: a training run can go on from here                      |
| `warning`  | `code`, `message`: the run goes on                                |

Phases of quantizing are calibrating, planning (only for `bits_per_weight`), quantizing, polishing
(only with `polish_epochs`), evaluating and packaging; those of finetuning preparing, training,
evaluating and packaging.

Warnings are `diverged`, which the report repeats, and `checkpoint_discarded` with `block`, the
first of the earlier run's blocks that was not taken over, and `differs`, the fields of the
identity why (empty: it could not be read; `block` is 0 of a training run). Finetuning also has
`out_of_memory` and `validation_overlaps`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

EventType = Literal["phase", "progress", "resumed", "block", "metrics", "checkpoint", "warning"]


@dataclass(frozen=True)
class Event:
    type: EventType
    data: dict[str, Any]


OnEvent = Callable[[Event], None]
ShouldStop = Callable[[], bool]
CheckStop = Callable[[], None]  # raises `Stopped` where the run is to end
