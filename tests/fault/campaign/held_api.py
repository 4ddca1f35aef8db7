"""The real API process, which can be held between a commit and its doorbell."""

import sys

from api.__main__ import main
from jobs import doorbell
from jobs.settings import Settings
from tests.fault.campaign.points import IN_API, reach

ring_queue = doorbell.ring_queue


def held_ring(settings: Settings, queue: str) -> None:
    reach(IN_API)
    ring_queue(settings, queue)


if __name__ == "__main__":
    doorbell.ring_queue = held_ring
    sys.exit(main())
