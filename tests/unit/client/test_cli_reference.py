"""docs/reference/cli.md knows every error code of the command's own."""

import re
from pathlib import Path

from api.problems import PROBLEMS

ROOT = Path(__file__).resolve().parents[3]
CODE = re.compile(r'(?:ApiqError\(|super\(\).__init__\(|\bcode=)\s*"([a-z_]+)"')
# what the command starts (apiq_client/rooms.py) ends with such a line
STARTED = (
    "apiq_core/import_model.py",
    "jobs/keys_admin.py",
    "jobs/settings.py",
    "api/__main__.py",
    "worker/__main__.py",
    "worker/fleet.py",
)
TOLD = re.compile(r'(?:(?:UserError|Refused)\(\s*"|\[)([a-z_]+)(?:"|\]")')


def test_every_code_is_documented() -> None:
    own = found(CODE, *(ROOT / "apiq_client").rglob("*.py"))
    assert {"unreachable", "directory_taken", "migration_failed"} <= own
    told = found(TOLD, *(ROOT / file for file in STARTED))
    assert {"model_exists", "illegal_key", "illegal_setting", "host_not_loopback"} <= told
    reference = (ROOT / "docs/reference/cli.md").read_text()
    of_the_server = set(PROBLEMS)  # tests/contract/test_openapi.py
    assert {code for code in own | (told - of_the_server) if f"`{code}`" not in reference} == set()


def found(pattern: re.Pattern[str], *sources: Path) -> set[str]:
    return {code for source in sources for code in pattern.findall(source.read_text())}
