"""The real parent of one worker per device, with workers that have the scripted child."""

import sys
from pathlib import Path

from worker import fleet

if __name__ == "__main__":
    script = Path(__file__).with_name("scripted_worker.py")
    sys.exit(fleet.run(sys.argv[1:], [sys.executable, str(script)]))
