"""Every code that the source can answer with is documented where it can be the answer."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from api.app import create_app
from api.problems import PROBLEMS
from jobs.errors import CancelRequested, JobError, LeaseLost
from jobs.settings import Settings
from tests.compose import ROOT

# where a loop raises them, the codes stand in what it goes over
RAISED = re.compile(r"""\b(?:User|Infra|Api)Error\(\s*"(\w+)"|"(illegal_\w+)\"""")
MADE = re.compile(r"""\b(?:User|Infra|Api)Error\(\s*f\"""")
FILES_OF = """
import sys
import {module}
for name, found in sys.modules.items():
    if name.partition(".")[0] in ("api", "jobs", "apiq_core") and found.__file__:
        print(found.__file__)
"""
OF_PREVIEWS = {"tokenizer_too_large"}  # in jobs/hub.py, of which POST /jobs uses another part


def raised_by(module: str) -> set[str]:
    """The codes in the source of a module and of all of ours that it imports."""
    done = subprocess.run(
        [sys.executable, "-c", FILES_OF.format(module=module)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    files = done.stdout.splitlines()
    return {one or other for file in files for one, other in RAISED.findall(Path(file).read_text())}


def test_no_code_is_made_of_parts() -> None:
    """A search finds each, and so does this test."""
    rooms = ("api", "jobs", "apiq_core", "worker")
    files = [file for room in rooms for file in (ROOT / room).rglob("*.py")]
    assert len(files) > 100
    assert [file for file in files if MADE.search(file.read_text())] == []


def test_all_of_the_face_are_known_problems() -> None:
    of_workers = {LeaseLost, CancelRequested}
    found = raised_by("api.app") | {x.code for x in {*JobError.__subclasses__()} - of_workers}
    assert {"illegal_bits", "not_ready", "quota_exceeded"} <= found
    assert found - set(PROBLEMS) == set()


def test_all_of_a_submission_are_in_its_openapi(tmp_path: Path) -> None:
    answers = create_app(Settings(data_dir=tmp_path)).openapi()["paths"]["/jobs"]["post"]
    documented = {
        code
        for status, answer in answers["responses"].items()
        if status >= "400"
        for code in answer["content"]["application/problem+json"]["examples"]
    }
    found = raised_by("jobs.intake")
    assert {"budget_too_small", "illegal_method", "model_outside", "no_secret_key"} <= found
    assert found - OF_PREVIEWS - documented == set()


@pytest.mark.parametrize("path", ["/jobs/{job_id}/logs", "/jobs/{job_id}/artifacts/{path}"])
def test_what_reads_the_store_may_be_not_ready(path: str, tmp_path: Path) -> None:
    answer = create_app(Settings(data_dir=tmp_path)).openapi()["paths"][path]["get"]
    assert "`not_ready`" in answer["responses"]["503"]["description"]
