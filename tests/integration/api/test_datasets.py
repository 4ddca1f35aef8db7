"""Uploads of texts: checked as they arrive, and nothing is left of a refused one."""

import gzip
import hashlib
import os
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from apiq_core.config import Calibration, QuantizeConfig
from jobs import maintenance
from jobs.settings import Settings
from jobs.texts import fetch_texts
from tests.integration.api.hub_server import Hub
from tests.integration.api.support import Service, leftovers

PLAIN = {"content-type": "text/plain"}
TEXT = "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich. 🦊\n" * 100


def test_upload_show_list_delete(service: Service, settings: Settings) -> None:
    content = TEXT.encode()
    answer = service.http.post("/datasets", params={"name": "fox"}, content=content, headers=PLAIN)
    assert answer.status_code == 201
    dataset = answer.json()
    assert dataset["id"].startswith("ds_")
    assert (dataset["name"], dataset["kind"]) == ("fox", "text")
    assert (dataset["size_bytes"], dataset["characters"]) == (len(content), len(TEXT))
    assert (dataset["rows"], dataset["duplicates"]) == (None, None)
    assert dataset["sha256"] == hashlib.sha256(content).hexdigest()
    assert service.http.get(answer.headers["location"]).json() == dataset
    other = service.upload(b"other")
    assert service.http.get("/datasets").json() == {"datasets": [other, dataset], "next": None}
    assert service.http.delete(f"/datasets/{other['id']}").status_code == 204
    assert service.http.get("/datasets").json() == {"datasets": [dataset], "next": None}
    service.refused(service.http.get(f"/datasets/{other['id']}"), 404, "dataset_not_found")
    with service.context.database.begin() as connection:
        swept = maintenance.sweep(connection, service.context.settings)
    assert swept.deleted_datasets == [other["id"]]


def test_a_list_comes_in_pages(service: Service) -> None:
    made = [service.upload(b"text %d" % n) for n in range(5)][::-1]
    seen: list[dict[str, object]] = []
    query: dict[str, str | int] = {"limit": 2}
    while True:
        page = service.http.get("/datasets", params=query).json()
        assert len(page["datasets"]) <= 2
        seen += page["datasets"]
        if page["next"] is None:
            break
        query["after"] = page["next"]
    assert seen == made
    for wrong in ("after=garbage", "after=am9iX3g", "limit=0", "limit=101"):
        answer = service.http.get(f"/datasets?{wrong}")
        problem = service.refused(answer, 422, "invalid_request")
        assert [error["pointer"] for error in problem["errors"]] == [f"?{wrong.split('=')[0]}"]


def test_the_worker_gets_the_same_bytes(service: Service, tmp_path: Path) -> None:
    source = f"dataset:{service.upload(TEXT.encode())['id']}"
    config = QuantizeConfig(bits=2, calibration=Calibration(source=source))
    texts = fetch_texts(config, tmp_path / "scratch", service.context.store)
    assert {name: path.read_bytes() for name, path in texts.items()} == {source: TEXT.encode()}


def test_wikitext2_comes_from_the_hub(service: Service, hub: Hub, tmp_path: Path) -> None:
    repository = hub.root / "datasets/ggml-org/ci"
    repository.mkdir(parents=True)
    with zipfile.ZipFile(repository / "wikitext-2-raw-v1.zip", "w") as archive:
        for split in ("train", "valid", "test"):
            archive.writestr(f"wikitext-2-raw/wiki.{split}.raw", f" {split} \n" * 1000)
    config = QuantizeConfig(bits=2, calibration=Calibration(source="wikitext2"))
    texts = fetch_texts(config, tmp_path / "scratch", service.context.store)
    # the test split comes last: what is set aside for the evaluation is of it
    assert texts["wikitext2"].read_text() == " train \n" * 1000 + " test \n" * 1000


def test_leftovers_of_a_killed_server_are_removed(service: Service, settings: Settings) -> None:
    """While the next one runs: they may have been too young when it began."""
    uploads = settings.data_dir / "uploads"
    app = create_app(settings.model_copy(update={"sweep_interval_s": 0.05}))
    with TestClient(app):
        for name in ("old", "new"):
            (uploads / name).mkdir(parents=True)
            (uploads / name / "data.txt").write_text("half a te")
        os.utime(uploads / "old", (0, 0))
        deadline = time.monotonic() + 30
        while (uploads / "old").exists():
            assert time.monotonic() < deadline, "it stays"
            time.sleep(0.05)
        assert [path.name for path in uploads.iterdir()] == ["new"]


def test_characters_that_lie_across_chunks(service: Service) -> None:
    content = TEXT.encode()
    pieces: Iterator[bytes] = (content[i : i + 1] for i in range(200))
    dataset = service.http.post("/datasets", content=pieces, headers=PLAIN).json()
    assert dataset["size_bytes"] == 200
    assert dataset["characters"] == len(content[:200].decode())


@pytest.mark.parametrize(
    ("content", "status", "code", "part"),
    [
        (b"", 422, "empty_dataset", "0 bytes"),
        (b" \n\t\n", 422, "empty_dataset", "4 bytes, all white space"),
        (b"good \xff bad", 422, "not_utf8", "byte 5 (0xff)"),
        ("naïve".encode("latin-1"), 422, "not_utf8", "byte 2 (0xef)"),
        ("🦊".encode()[:3], 422, "not_utf8", "byte 0 (0xf0)"),
        ("text".encode("utf-16"), 422, "not_utf8", "byte 0 (0xff)"),
        (b"x" * 100_001, 413, "dataset_too_large", "at most 100000 bytes"),
    ],
)
@pytest.mark.parametrize("pieces", [1, 3])
def test_refused(
    service: Service,
    content: bytes,
    status: int,
    code: str,
    part: str,
    pieces: int,
) -> None:
    step = max(1, -(-len(content) // pieces))
    chunks = [content[i : i + step] for i in range(0, len(content), step)]
    answer = service.http.post(
        "/datasets", content=content if pieces == 1 else iter(chunks), headers=PLAIN
    )
    problem = service.refused(answer, status, code)
    assert part in problem["detail"]
    assert service.http.get("/datasets").json()["datasets"] == []
    assert leftovers(service) == []


def test_other_content_types(service: Service) -> None:
    for media_type in ("application/xml", "multipart/mixed; boundary=x", ""):
        answer = service.http.post(
            "/datasets", content=b"text", headers={"content-type": media_type}
        )
        problem = service.refused(answer, 415, "unsupported_media_type")
        assert "legal: text/plain, application/jsonl" in problem["detail"]
        assert "multipart/form-data" in problem["legal"]


def test_a_compressed_body(service: Service) -> None:
    answer = service.http.post(
        "/datasets", content=gzip.compress(b"text"), headers=PLAIN | {"content-encoding": "gzip"}
    )
    problem = service.refused(answer, 415, "unsupported_media_type")
    assert [error["pointer"] for error in problem["errors"]] == ["Content-Encoding:"]
    assert "content-encoding is 'gzip'; legal: a body that is not compressed" in problem["detail"]


@pytest.mark.parametrize("name", ["", " ", "a\nb", "x" * 201, "\x00"])
def test_names_that_are_none(service: Service, name: str) -> None:
    answer = service.http.post("/datasets", params={"name": name}, content=b"x", headers=PLAIN)
    problem = service.refused(answer, 422, "invalid_request")
    assert [error["pointer"] for error in problem["errors"]] == ["?name"]


@pytest.mark.parametrize("part", ["calibration", "evaluation"])
def test_a_text_in_use_stays(service: Service, part: str) -> None:
    dataset = service.upload(b"word " * 20_000)
    job = service.submit(**{part: {"source": f"dataset:{dataset['id']}"}})
    url = f"/datasets/{dataset['id']}"
    problem = service.refused(service.http.delete(url), 409, "dataset_in_use")
    assert job["id"] in problem["detail"]
    service.http.post(job["urls"]["cancel"])
    assert service.http.delete(url).status_code == 204


def test_a_preview_is_its_beginning(service: Service) -> None:
    dataset = service.upload(TEXT.encode())
    (row,) = service.http.get(f"/datasets/{dataset['id']}/preview").json()["rows"]
    assert row == {"shape": "text", "segments": [{"text": TEXT[:1000], "learned": True}]}
    short = service.upload("\ufeffü".encode())  # a mark that editors on Windows write
    (row,) = service.http.get(f"/datasets/{short['id']}/preview").json()["rows"]
    assert row["segments"][0]["text"] == "ü"


def test_delete_of_what_is_not_there(service: Service) -> None:
    service.refused(service.http.delete("/datasets/ds_none"), 404, "dataset_not_found")
