"""`apiq up` as a process, and every process that belongs to it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

SOON_S = 60.0


class Up:
    """An `apiq up` and what it printed."""

    def __init__(self, data_dir: Path, port: int = 0, /, **settings: str) -> None:
        command = [sys.executable, "-m", "apiq_client.cli", "up"]
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("APIQ_")}
        self.process = subprocess.Popen(
            [*command, "--port", str(port), "--data-dir", str(data_dir)],
            env=inherited | settings,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines: list[str] = []
        self.last = ""  # what it printed after `lines`

    def wait_until_up(self) -> str:
        """The URL that it prints last."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip())
            if match := re.match(r"apiq is up at (http://\S+)", line):
                return match[1]
        pytest.fail(f"it ended: {self.process.communicate()}")

    def parts(self) -> dict[str, int]:
        """Name -> process id, as printed."""
        return {
            match[1]: int(match[2])
            for line in self.lines
            if (match := re.match(r"(api|worker) +pid (\d+)", line))
        }

    def ended(self) -> tuple[int, str]:
        self.last, err = self.process.communicate(timeout=SOON_S)
        return self.process.returncode, err


def processes_of(data_dir: Path) -> list[psutil.Process]:
    """Every process that was started for this data directory, however it is called."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("APIQ_DATA_DIR") == str(data_dir):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return found
