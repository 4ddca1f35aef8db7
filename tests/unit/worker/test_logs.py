"""What is blanked out of logs, and what must stay readable."""

import pytest

from jobs import keys
from worker.logs import BLANK, redact, redact_all


@pytest.mark.parametrize(
    "secret",
    [keys._new_text() for _ in range(20)] + ["hf_abcdefghijklmnop", "ghp_0123456789"],
    ids=range(22),  # the same in every process that collects them
)
def test_tokens_by_their_looks(secret: str) -> None:
    said = redact(f"key={secret}, that was it")
    assert secret[5:] not in said
    assert said.startswith("key=") and said.endswith(f"{BLANK}, that was it")


@pytest.mark.parametrize(
    "text", ['File "/usr/lib/apiq_core/quantize.py", line 3', "apiq_client.commands.artifacts"]
)
def test_names_of_modules_stay(text: str) -> None:
    assert redact(text) == text


def test_a_secret_of_the_job_everywhere() -> None:
    data = {"a": ["x zq7Canary", {"zq7Canary": None}], "b": 1.5, "c": "short"}
    blanked = {"a": [f"x {BLANK}", {BLANK: None}], "b": 1.5, "c": "short"}
    assert redact_all(data, "zq7Canary", "short") == blanked
