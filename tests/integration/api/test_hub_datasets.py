"""Datasets that the hub has, fetched by name."""

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from huggingface_hub import constants
from pyarrow import parquet

from jobs.datasets import hub_splits
from tests.integration.api.hub_server import Hub
from tests.integration.api.support import Service, leftovers

REPOSITORY = "org/sums"
TOKEN = "token-of-a-hub"


def lines(*numbers: int) -> bytes:
    rows = [{"question": f"What is {n}?", "answer": str(n)} for n in numbers]
    return "\n".join(json.dumps(row) for row in rows).encode()


def table(rows: list[dict[str, Any]], schema: pyarrow.Schema | None = None) -> bytes:
    out = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(rows, schema), out, compression="zstd")
    return out.getvalue()


def place(hub: Hub, **files: bytes) -> None:
    """Files of the repository; `/` and `.` of a path are `__` and `_DOT_`."""
    for name, content in files.items():
        path = hub.root / "datasets" / REPOSITORY / name.replace("__", "/").replace("_DOT_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def fetch(service: Service, **fields: Any) -> Any:
    return service.http.post("/datasets", json={"hub": REPOSITORY} | fields)


def nothing_was_kept(service: Service) -> None:
    assert service.http.get("/datasets").json()["datasets"] == []
    assert leftovers(service) == []


def test_files_of_a_split_one_behind_the_other(service: Service, hub: Hub) -> None:
    place(
        hub,
        data__train_DOT_1_DOT_jsonl=lines(1, 2),  # no end of line at its end
        data__train_DOT_2_DOT_jsonl=lines(3) + b"\n",
        data__test_DOT_jsonl=lines(4),
        README_DOT_md=b"# Sums",
        notes_DOT_txt=b"Not of the data.",
    )
    answer = fetch(service)
    assert answer.status_code == 201, answer.text
    dataset = answer.json()
    content = lines(1, 2) + b"\n" + lines(3) + b"\n"
    assert dataset["sha256"] == hashlib.sha256(content).hexdigest()
    assert (dataset["kind"], dataset["rows"], dataset["name"]) == ("rows", 3, "org/sums train")
    assert dataset["longest_row_characters"] == len("Question: What is 1?\nAnswer: 1")
    assert dataset["origin"] == {
        "hub": REPOSITORY,
        "config": None,
        "split": "train",
        "revision": hub.commit,
        "files": ["data/train.1.jsonl", "data/train.2.jsonl"],
    }
    assert hub.fetched() == {"data/train.1.jsonl", "data/train.2.jsonl"}
    assert service.http.get(answer.headers["location"]).json() == dataset
    assert len(service.http.get(f"/datasets/{dataset['id']}/preview").json()["rows"]) == 3
    test = fetch(service, split="test", revision=hub.commit).json()
    assert (test["rows"], test["origin"]["files"]) == (1, ["data/test.jsonl"])
    uploads = service.context.settings.data_dir / "uploads"
    assert not any(uploads.iterdir())


def test_a_single_file_is_what_is_trained_on(service: Service, hub: Hub) -> None:
    place(hub, sums_DOT_NDJSON=lines(1))
    assert fetch(service).json()["origin"]["files"] == ["sums.NDJSON"]
    problem = service.refused(fetch(service, split="test"), 422, "hub_split_not_found")
    assert [error["pointer"] for error in problem["errors"]] == ["#/split"]
    assert problem["legal"] == ["sums.NDJSON"]


def test_a_text(service: Service, hub: Hub) -> None:
    place(hub, book_DOT_txt=b"Some words to learn.")
    dataset = fetch(service).json()
    assert (dataset["kind"], dataset["size_bytes"]) == ("text", 21)


def test_configs_are_folders(service: Service, hub: Hub) -> None:
    place(hub, main__train_DOT_jsonl=lines(1), other__train_DOT_jsonl=lines(2, 3))
    problem = service.refused(fetch(service), 422, "hub_split_not_found")
    assert [error["pointer"] for error in problem["errors"]] == ["#/config"]
    assert problem["legal"] == ["main", "other"]
    assert fetch(service, config="other").json()["rows"] == 2
    service.refused(fetch(service, config="third"), 422, "hub_split_not_found")


def test_parquet(service: Service, hub: Hub) -> None:
    place(
        hub,
        data__train_DOT_0_DOT_parquet=table(
            [json.loads(line) for line in lines(1, 2).split(b"\n")]
        ),
        data__train_DOT_1_DOT_parquet=table(
            [{"question": "Und drei ist überall?", "answer": "Drei"}]
        ),
        examples_DOT_jsonl=lines(7),
    )
    dataset = fetch(service).json()
    assert (dataset["kind"], dataset["rows"]) == ("rows", 3)
    assert dataset["origin"]["files"] == ["data/train.0.parquet", "data/train.1.parquet"]
    rows = service.http.get(f"/datasets/{dataset['id']}/preview").json()["rows"]
    assert [row["segments"][0]["text"] for row in rows] == [
        "Question: What is 1?\nAnswer:",
        "Question: What is 2?\nAnswer:",
        "Question: Und drei ist überall?\nAnswer:",
    ]


def test_columns_that_json_can_say(service: Service, hub: Hub) -> None:
    chat = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]
    words = pyarrow.dictionary(pyarrow.int32(), pyarrow.string())
    message = pyarrow.struct([("role", words), ("content", pyarrow.large_string())])
    schema = pyarrow.schema(
        [
            ("image", pyarrow.binary()),
            ("at", pyarrow.timestamp("s")),
            ("score", pyarrow.float32()),
            ("messages", pyarrow.list_(message)),
        ]
    )
    rows = [{"image": b"\xff", "at": 0, "score": 0.5, "messages": chat}]
    place(hub, train_DOT_parquet=table(rows, schema))
    dataset = fetch(service).json()
    content = json.dumps({"score": 0.5, "messages": chat}).encode() + b"\n"
    assert dataset["sha256"] == hashlib.sha256(content).hexdigest()


def test_parquet_that_is_refused(service: Service, hub: Hub) -> None:
    place(hub, train_DOT_parquet=table([{"text": "Yes."}, {"text": None}]))
    problem = service.refused(fetch(service), 422, "bad_rows")
    assert [error["pointer"] for error in problem["errors"]] == ["line 2, text"]
    whole = table([{"text": "word " * 1000}] * 100)  # 500 kB of lines in less than 1 kB
    assert len(whole) < 10_000
    place(hub, train_DOT_parquet=whole)
    service.refused(fetch(service), 413, "dataset_too_large")
    for broken in (b"PAR1", whole[: len(whole) // 2], whole[:50] + b"\0" * 20 + whole[70:]):
        place(hub, train_DOT_parquet=broken)
        problem = service.refused(fetch(service), 422, "hub_files_unsupported")
        assert "'train.parquet' of org/sums" in problem["detail"]
    nothing_was_kept(service)


def test_the_card_says_what_is_what(service: Service, hub: Hub) -> None:
    place(hub, a_DOT_jsonl=lines(1), b_DOT_jsonl=lines(2, 3), c_DOT_jsonl=lines(4, 5, 6))
    hub.cards[REPOSITORY] = {
        "configs": [
            {
                "config_name": "default",
                "data_files": [
                    {"split": "train", "path": ["a.*", "b.jsonl"]},
                    {"split": "test", "path": "missing.jsonl"},
                ],
            },
            {"config_name": "other", "data_files": "c.jsonl"},
        ]
    }
    assert fetch(service).json()["origin"]["files"] == ["a.jsonl", "b.jsonl"]
    assert fetch(service, config="other").json()["rows"] == 3
    for fields, code, pointer in (
        ({"config": "third"}, "hub_split_not_found", "#/config"),
        ({"split": "dev"}, "hub_split_not_found", "#/split"),
        ({"split": "test"}, "hub_files_unsupported", "#/hub"),
    ):
        problem = service.refused(fetch(service, **fields), 422, code)
        assert [error["pointer"] for error in problem["errors"]] == [pointer]


def test_files_that_cannot_be_read(
    service: Service, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    place(hub, data__train_DOT_arrow=b"ARROW1", sums_DOT_py=b"raise SystemExit")
    problem = service.refused(fetch(service), 422, "hub_files_unsupported")
    assert "'data/train.arrow', 'sums.py'" in problem["detail"]
    assert problem["legal"] == [".txt", ".jsonl", ".ndjson", ".parquet"]
    place(hub, **{f"train_{n}_DOT_jsonl": lines(n) for n in range(3)})
    monkeypatch.setattr(hub_splits, "MAX_FILES", 2)
    service.refused(fetch(service), 422, "hub_files_unsupported")
    assert hub.fetched() == set()
    nothing_was_kept(service)


def test_what_is_fetched_is_checked(service: Service, hub: Hub) -> None:
    place(hub, train_DOT_jsonl=lines(1) + b'\n{"text": 3}\n')
    problem = service.refused(fetch(service), 422, "bad_rows")
    assert [error["pointer"] for error in problem["errors"]] == ["line 2, text"]
    nothing_was_kept(service)
    place(hub, train_DOT_jsonl=b'{"text": "a"}\n' * 7143)  # 100,002 bytes
    before = len(hub.requests)
    service.refused(fetch(service), 413, "dataset_too_large")
    assert not [path for method, path in hub.requests[before:] if path.endswith("train.jsonl")]
    nothing_was_kept(service)


def test_a_gated_one(service: Service, hub: Hub) -> None:
    place(hub, train_DOT_jsonl=lines(1))
    hub.gated.add(REPOSITORY)
    hub.token = TOKEN
    problem = service.refused(fetch(service), 422, "hub_dataset_gated")
    assert [error["pointer"] for error in problem["errors"]] == ["#/hub"]
    answer = fetch(service, hub_token=TOKEN)
    assert answer.status_code == 201 and TOKEN not in answer.text


@pytest.mark.parametrize(
    ("fields", "code", "pointer", "says"),
    [
        ({"hub": "org/none"}, "hub_dataset_not_found", "#/hub", "has no org/none"),
        ({"revision": "v9"}, "revision_not_found", "#/revision", "no revision 'v9'"),
        ({"hub": "a b"}, "invalid_request", "#/hub", "not a dataset of the hub"),
        ({"hub": "../x"}, "invalid_request", "#/hub", "not a dataset of the hub"),
        ({"hub": 3}, "invalid_request", "#/hub", "hub is 3"),
        (
            {"split": "a/b"},
            "invalid_request",
            "#/split",
            "split is 'a/b'; legal: 1 to 100 of ASCII",
        ),
        ({"quantize": 1}, "invalid_request", "#/quantize", "quantize is not a field"),
        ({"splits": "a"}, "invalid_request", "#/splits", "did you mean `split`?"),
        ({"hub_token": "short"}, "invalid_request", "#/hub_token", "hub_token is [secret]"),
    ],
)
def test_bad_fields(
    service: Service, hub: Hub, fields: dict[str, Any], code: str, pointer: str, says: str
) -> None:
    place(hub, train_DOT_jsonl=lines(1))
    problem = service.refused(fetch(service, **fields), 422, code)
    assert [error["pointer"] for error in problem["errors"]] == [pointer]
    assert says in problem["detail"]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, "malformed_json"),
        (b"\xff", 400, "malformed_json"),
        (b"[" * 50_000, 400, "malformed_json"),
        (b"[]", 422, "invalid_request"),
        (b"{}", 422, "invalid_request"),
        (b" " * 70_000, 413, "body_too_large"),
    ],
)
def test_bad_bodies(service: Service, body: bytes, status: int, code: str) -> None:
    headers = {"content-type": "application/json; charset=utf-8"}
    answer = service.http.post("/datasets", content=body, headers=headers)
    service.refused(answer, status, code)


def test_a_hub_that_is_away(service: Service, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    place(hub, train_DOT_jsonl=lines(*range(100)))
    hub.status = 500
    service.refused(fetch(service), 503, "hub_unreachable")
    nothing_was_kept(service)


def test_the_hub_keeps_nothing_here(service: Service, hub: Hub) -> None:
    """A file goes through the folder of the upload, not through the cache of the machine."""
    place(hub, train_DOT_jsonl=lines(1))
    assert fetch(service).status_code == 201
    assert not list(Path(constants.HF_HUB_CACHE).rglob("*.jsonl"))
