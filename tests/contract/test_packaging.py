"""What `pip install apiq` brings is enough for everything but running jobs."""

import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import distribution, packages_distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.compose import ROOT
from tests.tiny_models import make_tiny

# argv[1]: names that cannot be imported, as JSON
ACCEPT_A_JOB = """
import asyncio, json, sys
blocked = set(json.loads(sys.argv[1]))

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocker())
import httpx
import api.__main__, apiq_client.cli, boto3, psycopg, redis, worker.app, worker.supervisor
from api.app import create_app
from jobs.settings import load_settings
from migrations.__main__ import upgrade

async def main():
    settings = load_settings()
    upgrade(settings.database_url)
    transport = httpx.ASGITransport(create_app(settings))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        body = {"model": "org/tiny", "bits": 2, "calibration": {"source": "builtin"}}
        answer = await client.post("/jobs", json=body)
    print(answer.status_code, answer.text)

asyncio.run(main())
"""


# as above; the rest of argv is that of the process
PREVIEW = """
import json, runpy, sys
sys.modules |= dict.fromkeys(json.loads(sys.argv.pop(1)))  # None: not to be found
runpy.run_module("apiq_core.finetune.data.preview_process", run_name="__main__")
"""


def requirements() -> tuple[list[str], list[str]]:
    """Of the base, of the extra `worker`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return project["dependencies"], project["optional-dependencies"]["worker"]


def closure(wanted: list[str]) -> set[str]:
    """Every distribution that these requirements lead to, in this environment."""
    found: dict[str, set[str]] = {}
    pending = [Requirement(text) for text in wanted]
    while pending:
        requirement = pending.pop()
        name = canonicalize_name(requirement.name)
        if name in found and requirement.extras <= found[name]:
            continue
        found.setdefault(name, set()).update(requirement.extras)
        for text in distribution(name).requires or []:
            inner = Requirement(text)
            marker = inner.marker
            if marker is None or any(
                marker.evaluate({"extra": extra}) for extra in ["", *requirement.extras]
            ):
                pending.append(inner)
    return set(found)


def test_the_base_has_no_torch() -> None:
    base, worker = requirements()
    assert not closure(base) & {canonicalize_name(Requirement(text).name) for text in worker}


def not_in_the_base() -> list[str]:
    """What can be imported here, and not where only the base is installed."""
    base, _ = requirements()
    there = closure(base) | {"apiq"}
    blocked = [
        top
        for top, packages in packages_distributions().items()
        if not there & {canonicalize_name(name) for name in packages}
    ]
    assert {"torch", "peft", "pytest"} <= set(blocked)
    return blocked


def test_the_base_accepts_jobs(tmp_path: Path) -> None:
    blocked = not_in_the_base()
    make_tiny(tmp_path / "models/org/tiny")
    done = subprocess.run(
        [sys.executable, "-c", ACCEPT_A_JOB, json.dumps(blocked)],
        env={"APIQ_DATA_DIR": str(tmp_path), "HF_HUB_OFFLINE": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.stdout.startswith("202 "), done.stdout + done.stderr


def test_the_base_previews_chats(tmp_path: Path) -> None:
    model_dir = make_tiny(tmp_path / "tiny")
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    (model_dir / "chat_template.jinja").write_text(template)
    row = {"messages": [{"role": "assistant", "content": "Hello."}]}
    arguments = [json.dumps(not_in_the_base()), str(model_dir), "rows", "512"]
    done = subprocess.run(
        [sys.executable, "-c", PREVIEW, *arguments],
        input=json.dumps(row),
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (shown,) = json.loads(done.stdout)["rows"]
    assert "".join(token["text"] for token in shown["tokens"]) == "assistant: Hello.\n"


def test_dev_brings_everything() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "apiq[worker]" in project["optional-dependencies"]["dev"]
    makefile = (ROOT / "Makefile").read_text()
    assert re.search(r"--constraint constraints.txt --editable '\.\[dev\]'", makefile)
