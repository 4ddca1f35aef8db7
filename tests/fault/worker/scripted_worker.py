"""The real worker process, with the scripted child."""

import sys
from pathlib import Path

from worker.app import main

if __name__ == "__main__":
    sys.exit(main([sys.executable, str(Path(__file__).with_name("scripted_child.py"))]))
