"""docs/reference/cli.md knows every error code of the command's own."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
CODE = re.compile(r'(?:ApiqError\(|super\(\).__init__\(|\bcode=)\s*"([a-z_]+)"')


def test_every_code_is_documented() -> None:
    sources = (ROOT / "apiq_client").rglob("*.py")
    codes = {code for source in sources for code in CODE.findall(source.read_text())}
    assert {"unreachable", "directory_taken", "migration_failed"} <= codes
    reference = (ROOT / "docs/reference/cli.md").read_text()
    assert [code for code in sorted(codes) if f"`{code}`" not in reference] == []
