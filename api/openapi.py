"""The OpenAPI document as openapi.json, which is committed, and so is docs/reference/requests.md.

`python -m api.openapi` writes both; a test fails if that was forgotten.
"""

import json
import sys
import tempfile
from pathlib import Path

from fastapi import FastAPI

from api import reference
from api.app import create_app
from jobs.settings import Settings

FILE = Path(__file__).resolve().parent.parent / "openapi.json"


def dump(app: FastAPI) -> str:
    return json.dumps(app.openapi(), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        settings = Settings.model_validate({"data_dir": scratch})
        FILE.write_text(dump(create_app(settings)), encoding="utf-8")
    reference.FILE.write_text(reference.page(), encoding="utf-8")
    sys.stdout.write(f"wrote {FILE} and {reference.FILE}\n")


if __name__ == "__main__":
    main()
