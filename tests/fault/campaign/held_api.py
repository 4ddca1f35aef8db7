"""The real API process, which can be held between a commit and its doorbell."""

import sys

from api.__main__ import main
from jobs import doorbell
from jobs.job import Job
from jobs.settings import Settings
from tests.fault.campaign.points import IN_API, reach

ring = doorbell.ring


def held_ring(settings: Settings, job: Job) -> None:
    reach(IN_API)
    ring(settings, job)


if __name__ == "__main__":
    doorbell.ring = held_ring
    sys.exit(main())
