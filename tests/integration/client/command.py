"""The command line, as a process."""

import os
import signal
import subprocess
import sys
from pathlib import Path

APIQ = [sys.executable, "-m", "apiq_client.cli"]
FILES = {"model/model.safetensors": os.urandom(10_000), "report.json": b"{}"}


class Command:
    """Runs `apiq` with an environment of its own."""

    def __init__(self, url: str, cwd: Path) -> None:
        self.cwd = cwd
        self.environment = os.environ | {"APIQ_URL": url, "COLUMNS": "80"}

    def __call__(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*APIQ, *arguments],
            env=self.environment,
            cwd=self.cwd,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [*APIQ, *arguments],
            env=self.environment,
            cwd=self.cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # whoever runs the tests in the background may have it ignored
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
