"""Start a command of another room as a process, and say in one line why it failed."""

import re
import subprocess
import sys
from collections.abc import Mapping

from apiq_client.errors import ApiqError

TOLD = re.compile(r"error: (?P<message>.*) \[(?P<code>\w+)\]")


def run(
    module: str,
    *arguments: str,
    code: str,
    capture: bool = False,
    environment: Mapping[str, str] | None = None,
) -> str:
    """What `python -m module` printed if `capture`, else "": it goes to our stdout.

    Raises `ApiqError` with the last line of its stderr; `code` where it names none.
    """
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        env=environment,
        stdout=subprocess.PIPE if capture else None,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        raise told(done.stderr) or ApiqError(code, _last_line(done.stderr))
    return done.stdout or ""


def told(words: str) -> ApiqError | None:
    """The error that a room's last line is about, if it is made as ours are."""
    match = TOLD.fullmatch(_last_line(words))
    return ApiqError(match["code"], match["message"]) if match else None


def _last_line(words: str) -> str:
    return (words.strip().splitlines() or ["it said nothing"])[-1]
