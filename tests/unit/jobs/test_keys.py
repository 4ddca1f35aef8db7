"""Keys of objects cannot name anything outside of the store."""

import pytest

from jobs.artifacts import block_key, check_key, files_prefix, log_key
from jobs.job import new_job_id


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/etc/passwd",
        "..",
        "../x",
        "a/../b",
        "a//b",
        "a/",
        "a/./b",
        ".hidden",
        "a\\b",
        "a\nb",
        "a\n",
        "a\x00b",
        "caf\u00e9",
        "a b",
        "a/x.tmp",
    ],
)
def test_illegal_keys(key: str) -> None:
    with pytest.raises(ValueError, match="not a key"):
        check_key(key)


@pytest.mark.parametrize(
    "name", ["model/model-00001-of-00003.safetensors", "chat_template.jinja", "model/1+2.json"]
)
def test_keys_of_artifacts(name: str) -> None:
    job_id = new_job_id()
    key = f"{files_prefix(job_id, 3)}/{name}"
    assert check_key(key) == key
    assert check_key(log_key(job_id, 3))
    assert (
        check_key(block_key(job_id, 3, 7)) == f"jobs/{job_id}/attempts/3/blocks/00007.safetensors"
    )


def test_ids_sort_by_time() -> None:
    ids = [new_job_id() for _ in range(1000)]
    assert ids == sorted(ids)
    assert len(set(ids)) == len(ids)
