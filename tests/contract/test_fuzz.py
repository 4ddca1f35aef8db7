"""Any request, in any order: no failure, and no answer that openapi.json does not describe.

`make fuzz` runs it for longer, from another seed each time.
"""

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from jobs import keys
from jobs.keys import Scope
from jobs.settings import Settings
from tests.columns import Column
from tests.integration.api.hub_server import serve_hub
from tests.integration.api.live import Live, serve
from tests.integration.api.support import place_model
from tests.tiny_models import make_tiny

CONFIG = Path(__file__).with_name("fuzz.toml")
HOOKS = Path(__file__).with_name("fuzz_hooks.py")
EXAMPLE_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"  # of the examples in openapi.json
SEED = 20240211
EXAMPLES = "6"  # a call and phase
SECONDS = os.environ.get("FUZZ_SECONDS")


@pytest.fixture
def live(tmp_path: Path, column: Column) -> Iterator[Live]:
    settings = Settings(
        data_dir=tmp_path / "data", secret_key=SecretStr("k" * 32), **column.addresses
    )
    model = make_tiny(tmp_path / "model")
    place_model(settings.models_dir, model, EXAMPLE_MODEL)
    with serve_hub(tmp_path / "hub") as hub, serve(settings, model, hub.url) as live:
        yield live


def test_fuzz(live: Live, tmp_path: Path) -> None:
    with live.context.database.begin() as connection:
        _, key = keys.create(
            connection,
            name="fuzz",
            owner="fuzz",
            scopes=[Scope.ADMIN],
            settings=live.context.settings,
        )
    seed = random.randrange(2**32) if SECONDS else SEED
    budget = ["--max-time", SECONDS] if SECONDS else ["--max-examples", EXAMPLES]
    done = subprocess.run(
        [
            *(Path(sys.executable).with_name("schemathesis"), "--config-file", CONFIG),
            *("run", f"{live.url}/openapi.json", "--header", f"Authorization: Bearer {key}"),
            *("--seed", str(seed), "--continue-on-failure", "--no-color", *budget),
        ],
        cwd=tmp_path,
        env=os.environ | {"SCHEMATHESIS_HOOKS": str(HOOKS)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    log = (live.context.settings.data_dir / "api.log").read_text()
    assert "Traceback" not in log
