"""The real worker process with a child that does nothing."""

import sys
from pathlib import Path

from worker.app import main

if __name__ == "__main__":
    sys.exit(main(["/bin/sh", str(Path(__file__).with_name("noop_child.sh"))]))
