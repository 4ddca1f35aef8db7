"""One case: a job is held at a point, a fault strikes, and the whole history is checked."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

import httpx
import psutil

from jobs.states import State
from tests.fault.campaign import points
from tests.fault.campaign.faults import FAULTS, Fault, expected_state, fill_scratch
from tests.fault.campaign.held_child import PUBLISHED_SHA256
from tests.fault.campaign.points import CANCELLING
from tests.fault.campaign.stage import Stage
from tests.fault.history import Expected, Flaw, flaws, nothing_left

DEADLINE_S = 60.0  # of a job, from the end of the fault
SETTLE_S = 20.0  # from the job's end until nothing is left over
MAX_PAUSE_S = 0.5  # between the point and the fault


@dataclass(frozen=True)
class Case:
    fault: Fault
    point: str

    def __str__(self) -> str:
        return f"{self.fault.name}, {self.point}"


def cases(column: str, seed: int) -> list[Case]:
    """Every fault at each of its points, in an order of the seed's."""
    found = [
        Case(fault, point) for fault in FAULTS if column in fault.columns for point in fault.points
    ]
    random.Random(seed).shuffle(found)
    return found


def is_possible(stage: Stage, case: Case) -> bool:
    """To fill a disk that others share is out of the question."""
    return stage.small_disk or case.fault.inject is not fill_scratch


def run_case(stage: Stage, case: Case, pause_s: float) -> list[Flaw]:
    """What is wrong after it. The service is empty again at the end."""
    stage.heal()
    points.arm(stage.points, case.point)
    submission = stage.submit()
    try:
        held = stage.held(case.point)
        (job,) = stage.rows()
        if case.point == CANCELLING:
            stage.http.post(f"/jobs/{job.id}/cancel").raise_for_status()
        time.sleep(pause_s)
        case.fault.inject(stage, held, job)
        stage.heal()
        job_id = submission.job_id()
    except (AssertionError, psutil.NoSuchProcess, httpx.HTTPError) as error:
        stage.heal()
        return [Flaw("stuck", "-", f"{case}: {error!r}"), *_empty(stage)]
    expected = {}
    if stage.rows():  # else it was part of the fault that it was deleted
        state = expected_state(case.point)
        known = PUBLISHED_SHA256 if state == State.SUCCEEDED else {}
        expected = {job_id: Expected(state, known)}
        stage.ended(job_id, DEADLINE_S)
    found = _settled(stage, expected)
    accepted = {job.id for job in stage.rows()}
    found += [Flaw("doubled", other, "accepted twice") for other in accepted - {job_id}]
    return found + _empty(stage)


def _settled(stage: Stage, expected: dict[str, Expected]) -> list[Flaw]:
    """What stays wrong: cleaning up behind a job may take a moment."""

    def look() -> list[Flaw]:
        found = flaws(stage.house, expected)
        return found if stage.is_quiet() else [*found, Flaw("untidy", "-", stage.noise())]

    return _until_none(look)


def _until_none(look: Callable[[], list[Flaw]]) -> list[Flaw]:
    deadline = time.monotonic() + SETTLE_S
    while (found := look()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return found


def _empty(stage: Stage) -> list[Flaw]:
    """Delete every job, as retention does; then nothing at all may be left."""
    for job in stage.rows():
        if not job.is_terminal:
            stage.http.post(f"/jobs/{job.id}/cancel")
            stage.ended(job.id, DEADLINE_S)
        stage.http.delete(f"/jobs/{job.id}")
    return _until_none(
        lambda: [
            *[Flaw("untidy", job.id, "its row was not swept") for job in stage.rows()],
            *nothing_left(stage.house),
        ]
    )
