"""Two processes on a CPU train what one trains; CUDA was not run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from apiq_core.errors import UserError
from apiq_core.finetune import processes
from tests.integration.core.finetune.support import SMALL, config, quantized, run

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning:transformers")
ROOT = Path(__file__).parents[4]
ADAPTER = "adapter/adapter_model.safetensors"
# a step has two rounds of a row each, and in the second nothing for the second process
FIELDS = SMALL | {"batch_size": 3, "micro_batch_size": 1, "epochs": 1, "evaluate_every": 2}
LAUNCHER = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]


def launch(module: str, *arguments: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of two processes that run `module`."""
    command = [sys.executable, *LAUNCHER, module, *map(str, arguments)]
    pipe, environment = subprocess.PIPE, os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True
    ) as process:
        try:
            out, err = process.communicate(timeout=180)
        finally:
            process.terminate()  # a launcher that is killed would leave the processes
    return process.returncode, out, err


def test_two_processes_are_stopped_and_then_train_what_one_does(sums: Path, tmp_path: Path) -> None:
    base = quantized(tmp_path)
    one = run(base, sums, tmp_path / "one", config(**FIELDS))

    driver, two = "tests.integration.core.finetune.launched", tmp_path / "two"
    code, _, err = launch(driver, base, sums, two, json.dumps(FIELDS))
    assert code != 0
    assert "InfraError: out of memory at 1 rows at a time in one of 2 processes" in err
    main, other = (json.loads((two / f"seen-{i}.json").read_text()) for i in (0, 1))
    assert (main["stopped"], main["checkpoint"]) == (other["stopped"], other["checkpoint"])
    assert main["stopped"] and main["checkpoint"]
    assert other["events"] == []
    kind, data = main["events"][-1]
    assert kind == "checkpoint"
    assert data["step"] == 2
    scored = [event["step"] for name, event in main["events"] if name == "metrics"]
    assert scored == [0, 2]  # so it was not while scoring
    main, other = (json.loads((two / f"diverged/seen-{i}.json").read_text()) for i in (0, 1))
    assert "step 3 was not finite; back to step 0, at half" in main["warnings"][0]
    assert (len(main["warnings"]), other["warnings"]) == (1, [])
    assert main["report"] == other["report"]

    options = [f"--{name.replace('_', '-')}={value}" for name, value in FIELDS.items()]
    code, out, err = launch("apiq_core.finetune", base, sums, two, *options)
    assert code == 0, err
    assert err.count(f'resumed {{"step": {data["step"]}}}') == 1  # told by the main one alone
    loss = json.loads(out)["validation_loss"]
    assert loss["before"] == pytest.approx(one.validation_loss.before, rel=1e-4)
    assert loss["after"] == pytest.approx(one.validation_loss.after, rel=1e-4)
    start, ours, theirs = (load_file(folder / ADAPTER) for folder in (base, tmp_path / "one", two))
    for name, wanted in ours.items():
        assert not torch.equal(wanted, start[name])
        torch.testing.assert_close(theirs[name], wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("device", "gpus"), [("cuda", 1), ("auto", 1), ("cuda:1", 2)])
def test_each_process_has_a_gpu_of_its_own(
    monkeypatch: pytest.MonkeyPatch, device: str, gpus: int
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    with pytest.raises(UserError) as caught, processes.joined(device):
        pass
    assert caught.value.code == "illegal_device"
