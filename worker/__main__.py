"""`python -m worker`: one worker process, or with `APIQ_DEVICES` one for each device."""

import sys
from importlib.util import find_spec

from jobs.log_lines import log_lines
from jobs.settings import settings_or_exit
from worker import app, fleet


def main() -> int:
    if find_spec("torch") is None:
        print("error: a worker needs torch; install apiq[worker] [torch_missing]", file=sys.stderr)
        return 2
    devices = settings_or_exit().devices
    if not devices:
        return app.main()
    log_lines()
    return fleet.run(devices.split(","))


if __name__ == "__main__":
    sys.exit(main())
