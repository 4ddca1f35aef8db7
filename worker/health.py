"""`python -m worker.health`: does every worker process here reach the records?

A file per process under `pulse_dir`, touched after each sweep; a sweep asks the database.
"""

import math
import socket
import sys
import time
from pathlib import Path

from jobs.settings import Settings, settings_or_exit

SILENCE_S = 60.0  # beside the interval of the sweeps: deleting what a large job left takes time


def touch(settings: Settings, worker_id: str) -> None:
    """Show that this worker is alive, and forget those that have long been silent."""
    settings.pulse_dir.mkdir(parents=True, exist_ok=True)
    _file(settings, worker_id).touch()
    for file in settings.pulse_dir.iterdir():
        if _age_s(file) > 2 * _limit_s(settings):
            file.unlink(missing_ok=True)


def forget(settings: Settings, worker_id: str) -> None:
    """This worker has ended."""
    _file(settings, worker_id).unlink(missing_ok=True)


def main() -> int:
    settings = settings_or_exit()
    expected = len(settings.devices.split(","))
    # containers may share the directory; each answers for its own
    own = settings.pulse_dir.glob(f"{socket.gethostname()[:60]}-*")
    ages_s = [_age_s(file) for file in own]
    alive = sum(age_s <= _limit_s(settings) for age_s in ages_s)
    print(f"{alive} of {expected} workers reached the database within {_limit_s(settings):.0f} s")
    return 0 if alive >= expected else 1


def _file(settings: Settings, worker_id: str) -> Path:
    return settings.pulse_dir / worker_id.replace(":", "-")


def _limit_s(settings: Settings) -> float:
    return settings.sweep_interval_s + SILENCE_S


def _age_s(file: Path) -> float:
    try:
        return time.time() - file.stat().st_mtime
    except FileNotFoundError:  # that worker has just ended
        return math.inf


if __name__ == "__main__":
    sys.exit(main())
