"""Uploads of rows, raw or in a form: checked line by line as they arrive."""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from jobs.artifacts.directory import DirectoryStore
from jobs.artifacts.s3 import S3Store
from jobs.datasets import previews
from jobs.datasets.files import dataset_key
from tests.columns import stored_keys
from tests.integration.api.support import Service, leftovers

ROWS = [
    {"question": "Wie heißt der Fuchs? 🦊", "answer": "Viktor"},
    {"prompt": "2+2=", "completion": "4"},
    {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]},
    {"text": "not in the preview"},
    {"prompt": "2+2=", "completion": "4"},
]
FILE = "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS).encode() + b"\n"
JSONL = "application/jsonl"


def post(service: Service, content: bytes | Iterator[bytes], media_type: str) -> httpx2.Response:
    return service.http.post("/datasets", content=content, headers={"content-type": media_type})


def pieces(content: bytes, step: int) -> Iterator[bytes]:
    return (content[start : start + step] for start in range(0, len(content), step))


def nothing_was_kept(service: Service) -> None:
    assert service.http.get("/datasets").json()["datasets"] == []
    assert leftovers(service) == []


def preview(service: Service, content: bytes) -> list[dict[str, Any]]:
    dataset = service.upload(content, JSONL)
    answer = service.http.get(f"/datasets/{dataset['id']}/preview")
    assert answer.status_code == 200, answer.text
    return list(answer.json()["rows"])


def test_upload_show_list_delete(service: Service) -> None:
    answer = service.http.post(
        "/datasets", params={"name": "fox"}, content=FILE, headers={"content-type": JSONL}
    )
    assert answer.status_code == 201, answer.text
    dataset = answer.json()
    assert (dataset["name"], dataset["kind"]) == ("fox", "rows")
    assert (dataset["rows"], dataset["duplicates"]) == (5, 1)
    assert (dataset["size_bytes"], dataset["characters"]) == (len(FILE), len(FILE.decode()))
    assert dataset["sha256"] == hashlib.sha256(FILE).hexdigest()
    assert service.http.get(answer.headers["location"]).json() == dataset
    text = service.upload(b"text")
    assert service.http.get("/datasets").json()["datasets"] == [text, dataset]
    assert stored_keys(service.context.store) == {
        f"datasets/{dataset['id']}/data.jsonl",
        f"datasets/{text['id']}/data.txt",
    }
    stored = service.context.store.open_range(dataset_key(dataset["id"], "rows"))
    assert b"".join(stored) == FILE
    assert service.http.delete(answer.headers["location"]).status_code == 204
    preview_url = f"{answer.headers['location']}/preview"
    service.refused(service.http.get(preview_url), 404, "dataset_not_found")


@pytest.mark.parametrize(
    "media_type",
    ["application/jsonl", "application/x-ndjson", "Application/X-JSONLines; charset=utf-8"],
)
def test_media_types(service: Service, media_type: str) -> None:
    assert service.upload(FILE, media_type)["kind"] == "rows"


@pytest.mark.parametrize("step", [1, 3, 50])
def test_lines_and_characters_that_lie_across_chunks(service: Service, step: int) -> None:
    dataset = post(service, pieces(FILE, step), JSONL).json()
    assert (dataset["rows"], dataset["duplicates"]) == (5, 1)
    assert dataset["characters"] == len(FILE.decode())


class TestPreview:
    def test_shapes(self, service: Service) -> None:
        assert preview(service, FILE) == [
            {
                "shape": "question",
                "segments": [
                    {"text": "Question: Wie heißt der Fuchs? 🦊\nAnswer:", "learned": False},
                    {"text": " Viktor", "learned": True},
                ],
            },
            {
                "shape": "prompt",
                "segments": [
                    {"text": "2+2=", "learned": False},
                    {"text": "4", "learned": True},
                ],
            },
            {
                "shape": "messages",
                "segments": [
                    {"text": "Hi", "learned": False, "role": "user"},
                    {"text": "Ho", "learned": True, "role": "assistant"},
                ],
            },
        ]

    def test_of_few_rows(self, service: Service) -> None:
        assert preview(service, b'\n\xef\xbb\xbf{"text": "a"}') == [
            {"shape": "text", "segments": [{"text": "a", "learned": True}]}
        ]

    @pytest.mark.parametrize("line_bytes", [20, 30_000])
    def test_reads_the_beginning_only(
        self, service: Service, monkeypatch: pytest.MonkeyPatch, line_bytes: int
    ) -> None:
        monkeypatch.setattr(previews, "FIRST_PIECE_BYTES", 1000)
        row = b'{"text": "%b"}\n' % (b"x" * (line_bytes - 13))
        dataset = service.upload(row * (99_000 // line_bytes), JSONL)
        asked: list[int] = []
        for store in (DirectoryStore, S3Store):
            open_range = store.open_range

            def noted(
                self: Any, key: str, start: int, end: int, read: Any = open_range
            ) -> Iterator[bytes]:
                asked.append(end)
                return read(self, key, start, end)

            monkeypatch.setattr(store, "open_range", noted)
        rows = service.http.get(f"/datasets/{dataset['id']}/preview").json()["rows"]
        assert [len(row["segments"][0]["text"]) for row in rows] == [line_bytes - 13] * 3
        whole = dataset["size_bytes"]
        assert asked == ([1000] if line_bytes == 20 else [1000, 4000, 16_000, 64_000, whole])

    def test_blank_lines_are_not_read_for_ever(
        self, service: Service, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(previews, "MAX_PREVIEW_BYTES", 1000)
        rows = preview(service, b'{"text": "a"}' + b"\n" * 2000 + b'{"text": "b"}')
        assert [row["segments"][0]["text"] for row in rows] == ["a"]


@pytest.mark.parametrize(
    ("content", "count", "errors"),
    [
        (b'{"text": "a"}\n{', "1 line is no row", [("line 2", "not JSON: ")]),
        (b'"text"\n[]', "2 lines are no rows", [("line 1", "text, legal"), ("line 2", "empty, ")]),
        (b'\n{"txt": "a"}', "1 line is no row", [("line 2", "has txt, legal: messages; prompt")]),
        (b'{"question": "a"}', "1 line is no row", [("line 1, answer", "missing; the row has")]),
        (
            b'{"messages": [{"role": "me", "content": "a"}]}',
            "1 line is no row",
            [("line 1, messages[0].role", "'me', legal: system, user")],
        ),
        ('{"text": "naïve"}'.encode("latin-1"), "1 line", [("line 1", "byte 12 of the line")]),
        ('{"text": "a"}'.encode("utf-16"), "1 line", [("line 1", "byte 0 of the line")]),
        (b"[" * 50_000, "1 line is no row", [("line 1", "nested too deeply")]),
        (rb'{"text": "\ud83e"}', "1 line is no row", [("line 1, text", "half of a surrogate")]),
        (b"plain text\n" * 50, "50 lines are no rows", [("line 1", "not JSON")]),
    ],
)
@pytest.mark.parametrize("step", [1_000_000, 7000, 5])
def test_bad_rows(
    service: Service, content: bytes, count: str, errors: list[tuple[str, str]], step: int
) -> None:
    problem = service.refused(post(service, pieces(content, step), JSONL), 422, "bad_rows")
    assert problem["detail"].startswith(count)
    assert len(problem["errors"]) == (20 if count.startswith("50") else len(errors))
    for error, (pointer, detail) in zip(problem["errors"], errors, strict=False):
        assert error["pointer"] == pointer
        assert detail in error["detail"]
    nothing_was_kept(service)


@pytest.mark.parametrize("content", [b"", b"\n \r\n\t\n"])
def test_no_rows(service: Service, content: bytes) -> None:
    problem = service.refused(post(service, content, JSONL), 422, "empty_dataset")
    assert "no rows" in problem["detail"]
    nothing_was_kept(service)


@pytest.mark.parametrize("step", [1_000_000, 7000])
def test_too_large(service: Service, step: int) -> None:
    content = b'{"text": "a"}\n' * 7143  # 100,002 bytes
    for body in (content, pieces(content, step)):
        problem = service.refused(post(service, body, JSONL), 413, "dataset_too_large")
        assert problem["legal"] == {"at_most": 100_000}
    nothing_was_kept(service)


class TestForm:
    def test_the_suffix_says_what_it_is(self, service: Service) -> None:
        found = {}
        for name in ("a.jsonl", "b.NDJSON", "c.txt", "path/d.txt", r"C:\e.txt", "f.tar.jsonl"):
            dataset = service.http.post("/datasets", files={"file": (name, FILE)}).json()
            assert dataset["sha256"] == hashlib.sha256(FILE).hexdigest()
            found[dataset["name"]] = dataset["kind"]
        assert found == {
            **{"a.jsonl": "rows", "b.NDJSON": "rows", "f.tar.jsonl": "rows"},
            **{"c.txt": "text", "d.txt": "text", "e.txt": "text"},
        }

    def test_the_name_that_is_given_counts(self, service: Service) -> None:
        files = {"file": ("Füchse.jsonl", FILE, JSONL)}
        assert service.http.post("/datasets", files=files).json()["name"] == "Füchse.jsonl"
        answer = service.http.post("/datasets", params={"name": "fox"}, files=files)
        assert answer.json()["name"] == "fox"

    @pytest.mark.parametrize("step", [1, 3, 50])
    def test_in_any_chunks(self, service: Service, step: int) -> None:
        request = service.http.build_request(
            "POST", "http://localhost/datasets", files={"file": ("a.jsonl", FILE)}
        )
        media_type = request.headers["content-type"]
        dataset = post(service, pieces(request.read(), step), media_type).json()
        assert (dataset["rows"], dataset["sha256"]) == (5, hashlib.sha256(FILE).hexdigest())

    @pytest.mark.parametrize("name", ["rows.json", "rows", ".jsonl", "rows.jsonl.gz", "rows.csv"])
    def test_other_suffixes(self, service: Service, name: str) -> None:
        answer = service.http.post("/datasets", files={"file": (name, FILE)})
        problem = service.refused(answer, 422, "invalid_request")
        assert repr(name) in problem["detail"]
        assert problem["legal"] == [".txt", ".jsonl", ".ndjson"]
        nothing_was_kept(service)

    def test_a_name_that_is_too_long(self, service: Service) -> None:
        answer = service.http.post("/datasets", files={"file": ("x" * 200 + ".txt", FILE)})
        problem = service.refused(answer, 422, "invalid_request")
        assert "legal: 1 to 200 printable characters" in problem["detail"]
        assert [error["pointer"] for error in problem["errors"]] == ["Content-Disposition:"]
        nothing_was_kept(service)

    def test_without_a_file_and_with_two(self, service: Service) -> None:
        file = ("a.jsonl", FILE)
        for form, says in (
            ({"files": {"file": (None, "text")}}, "the part 'file' is no file"),
            ({"data": {"name": "fox"}, "files": {"file": file}}, "the part 'name' is no file"),
            ({"files": [("file", file), ("file", file)]}, "another part beside the file"),
        ):
            answer = service.http.post("/datasets", **form)
            problem = service.refused(answer, 422, "invalid_request")
            assert says in problem["detail"]
            nothing_was_kept(service)

    @pytest.mark.parametrize(
        ("content", "says"),
        [(b"", "breaks off"), (b"hello", "legal: multipart/form-data"), (b"--x\r\n", "breaks off")],
    )
    def test_what_is_no_form(self, service: Service, content: bytes, says: str) -> None:
        answer = post(service, content, "multipart/form-data; boundary=x")
        assert says in service.refused(answer, 400, "bad_request")["detail"]
        answer = post(service, content, "multipart/form-data")
        assert "no boundary" in service.refused(answer, 400, "bad_request")["detail"]
        nothing_was_kept(service)

    def test_bad_rows_and_none(self, service: Service) -> None:
        answer = service.http.post("/datasets", files={"file": ("a.jsonl", b"text")})
        service.refused(answer, 422, "bad_rows")
        answer = service.http.post("/datasets", files={"file": ("a.jsonl", b"")})
        service.refused(answer, 422, "empty_dataset")
        nothing_was_kept(service)

    def test_the_limit_is_that_of_the_file(self, service: Service) -> None:
        full = b"x" * 100_000
        answer = service.http.post("/datasets", files={"file": ("a.txt", full)})
        assert answer.json()["size_bytes"] == 100_000
        service.http.delete(f"/datasets/{answer.json()['id']}")

    @pytest.mark.parametrize("size_bytes", [100_001, 500_000])
    @pytest.mark.parametrize("is_declared", [True, False])
    def test_too_large(self, service: Service, size_bytes: int, is_declared: bool) -> None:
        request = service.http.build_request(
            "POST", "http://localhost/datasets", files={"file": ("a.txt", b"x" * size_bytes)}
        )
        body = request.read()
        answer = post(
            service, body if is_declared else pieces(body, 7000), request.headers["content-type"]
        )
        service.refused(answer, 413, "dataset_too_large")
        nothing_was_kept(service)


@pytest.mark.parametrize("part", ["calibration", "evaluation"])
def test_no_text_to_quantize_on(service: Service, part: str) -> None:
    source = f"dataset:{service.upload(FILE, JSONL)['id']}"
    body = {"model": "tiny", "bits": 2, part: {"source": source}}
    problem = service.refused(service.http.post("/jobs", json=body), 422, "wrong_dataset_kind")
    assert [error["pointer"] for error in problem["errors"]] == [f"#/{part}/source"]
    assert (problem["value"], problem["legal"]) == (source, "a dataset of kind text")
    assert f"{source}, a dataset of kind rows" in problem["detail"]
