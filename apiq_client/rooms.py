"""Start a command of another room as a process, and say in one line why it failed."""

import re
import subprocess
import sys
from collections.abc import Mapping

from apiq_client.errors import ApiqError

MAX_ERROR_LINES = 10
TOLD = re.compile(r"error: (?P<message>.*) \[(?P<code>\w+)\]")


def run(
    module: str,
    *arguments: str,
    code: str,
    capture: bool = False,
    environment: Mapping[str, str] | None = None,
    outlives_ctrl_c: bool = False,
) -> str:
    """What `python -m module` printed if `capture`, else "": it goes to our stdout.

    Raises `ApiqError` with the last words of its stderr; `code` where they name none.
    """
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        env=environment,
        stdout=subprocess.PIPE if capture else None,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        start_new_session=outlives_ctrl_c,
    )
    if done.returncode:
        raise told(done.stderr) or ApiqError(code, last_words(done.stderr))
    return done.stdout or ""


def told(words: str) -> ApiqError | None:
    """The error that a room's last line is about, if it is made as ours are."""
    match = TOLD.fullmatch((words.strip().splitlines() or [""])[-1])
    return ApiqError(match["code"], match["message"]) if match else None


def last_words(text: str) -> str:
    """The error that a traceback ends with, which may go over several lines; else the last line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith("For further information")]
    for start in reversed(range(max(0, len(lines) - MAX_ERROR_LINES), len(lines))):
        if re.match(r"[\w.]+(Error|Exception|Exit): ", lines[start]):
            return " ".join(lines[start:])
    return lines[-1] if lines else "it said nothing"
