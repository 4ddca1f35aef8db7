"""The states of a job and the only ways between them.

    queued --> running --> succeeded | failed
      |  ^       | |
      |  +-------+ +--> cancelling --> cancelled      (back to queued: drained, or lost and retried)
      +---------------------------------> cancelled | failed       (failed: its time was over)

What a running job is doing is `phase`: data, not state.
"""

from enum import StrEnum


class State(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    CANCELLING = "cancelling"  # a running job that was asked to stop
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


# from -> to. A cancelling job only ever becomes cancelled: whoever was told 202 can rely on it.
TRANSITIONS: dict[State, frozenset[State]] = {
    State.QUEUED: frozenset({State.RUNNING, State.CANCELLED, State.FAILED}),
    State.RUNNING: frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLING, State.QUEUED}),
    State.CANCELLING: frozenset({State.CANCELLED}),
    State.SUCCEEDED: frozenset(),
    State.FAILED: frozenset(),
    State.CANCELLED: frozenset(),
}

TERMINAL = frozenset(state for state, targets in TRANSITIONS.items() if not targets)
HELD = frozenset({State.RUNNING, State.CANCELLING})  # a worker has a lease on it


def sources(target: State) -> frozenset[State]:
    """The states from which `target` can be entered."""
    return frozenset(state for state, targets in TRANSITIONS.items() if target in targets)
