"""docs/how-to/runbook.md speaks of what there is, and of everything that a log can complain of."""

import re

import pytest

from api.problems import PROBLEMS
from jobs.settings import Settings
from tests.compose import ROOT

PAGE = (ROOT / "docs/how-to/runbook.md").read_text()
SOURCES = [
    path.read_text()
    for room in ("api", "apiq_client", "apiq_core", "jobs", "worker")
    for path in sorted((ROOT / room).rglob("*.py"))
]
COMPLAINT = re.compile(r"""log(?:ger)?\.(?:warning|error|exception)\(\s*"(\w+)\"""")
COMPLAINTS = {name for source in SOURCES for name in COMPLAINT.findall(source)}


@pytest.mark.parametrize("name", sorted(COMPLAINTS))
def test_every_complaint_of_a_log_is_explained(name: str) -> None:
    assert f"`event={name}`" in PAGE


def test_every_event_setting_and_code_exists() -> None:
    logged = set(re.findall(r"""log(?:ger)?\.\w+\(\s*"(\w+)\"""", "\n".join(SOURCES)))
    assert set(re.findall(r"event=([a-z_]+)", PAGE)) <= logged
    settings = {f"APIQ_{name.upper()}" for name in Settings.model_fields}
    assert set(re.findall(r"APIQ_[A-Z_]+", PAGE)) <= settings | {"APIQ_"}
    codes = set(re.findall(r"^\| `([a-z_]+)`[,| ]", PAGE, flags=re.MULTILINE))
    assert len(codes) > 8
    assert {code for code in codes if not any(f'"{code}"' in x for x in SOURCES)} == set()


def test_every_failure_of_the_machines_is_explained() -> None:
    raised = set(re.findall(r"""\bInfraError\(\s*"(\w+)\"""", "\n".join(SOURCES)))
    assert {"worker_crashed", "checkpoint_lost"} <= raised
    assert {code for code in raised if f"`{code}`" not in PAGE} == set()


@pytest.mark.parametrize("code", [code for code, (status, _) in PROBLEMS.items() if status >= 500])
def test_every_failure_of_the_service_is_explained(code: str) -> None:
    assert f"`{code}`" in PAGE
