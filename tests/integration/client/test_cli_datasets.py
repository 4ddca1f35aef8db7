"""`apiq datasets`, against a real server."""

import json
from pathlib import Path

from tests.integration.client.command import Command


def test_datasets(apiq: Command, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("some words " * 10_000)
    dataset_id = apiq("datasets", "upload", "text.txt").stdout.strip()
    assert dataset_id in apiq("datasets", "list").stdout
    job_id = apiq(
        *("quantize", "tiny", "--bits", "2", "--calibration-source", f"dataset:{dataset_id}")
    ).stdout.strip()
    assert "dataset_in_use" in apiq("datasets", "delete", dataset_id, code=1).stderr
    apiq("jobs", "cancel", job_id)
    assert apiq("datasets", "delete", dataset_id).stdout == f"{dataset_id} deleted\n"
    assert dataset_id not in apiq("datasets", "list").stdout


def test_files_of_another_kind(apiq: Command, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("question,answer\n")
    assert apiq("datasets", "upload", "rows.csv", code=1).stderr == (
        "error: rows.csv: legal: a name that ends in .txt, .jsonl, .ndjson [unsupported_file]\n"
    )


def test_datasets_of_rows(apiq: Command, tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
    rows = [{"question": "How many?", "answer": "4"}, {"messages": chat}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    dataset_id = apiq("datasets", "upload", "rows.jsonl").stdout.strip()
    header, *lines = apiq("datasets", "list").stdout.splitlines()
    assert header.split()[:5] == ["ID", "NAME", "KIND", "ROWS", "SIZE"]
    (line,) = [line for line in lines if line.startswith(dataset_id)]
    assert line.split()[1:4] == ["rows.jsonl", "rows", "2"]
    assert apiq("datasets", "preview", dataset_id).stdout.splitlines() == [
        *("--- row 1 (question)", "Question: How many?", "Answer:[ 4]"),
        *("--- row 2 (messages)", "user: Hi", "assistant: [Ho]"),
    ]
    shown = json.loads(apiq("datasets", "preview", dataset_id, "--json").stdout)
    assert [row["shape"] for row in shown["rows"]] == ["question", "messages"]
    refused = apiq("datasets", "preview", dataset_id, "--base", "tiny", code=1)
    assert refused.stderr.rstrip().endswith("[no_chat_template]")
    (tmp_path / "rows.jsonl").write_text(json.dumps(rows[0]) + "\n")
    dataset_id = apiq("datasets", "upload", "rows.jsonl").stdout.strip()
    head, *lines, tail = apiq(
        *("datasets", "preview", dataset_id, "--base", "tiny", "--max-length", "8")
    ).stdout.splitlines()
    assert head.startswith("--- row 1 (question): ") and head.endswith(" carry loss")
    assert "\n".join(lines).replace("|", "").endswith("Answer:[ ][4][</s>]")
    assert tail.startswith("--- the whole dataset: 1 row, ")
    assert tail.endswith("; 1 longer than max_length, 8")
    (tmp_path / "rows.jsonl").write_text('{"text": 3}\n' + "{}\n" * 24)
    first, *told = apiq("datasets", "upload", "rows.jsonl", code=1).stderr.splitlines()
    assert first.startswith("error: 25 lines are no rows; line 1, text: a number")
    assert first.endswith("[bad_rows]")
    assert told[:2] == [
        "  line 1, text: a number, legal: text",
        "  line 2: has no fields, legal: messages; prompt, completion; instruction, output; "
        "question, answer; or text",
    ]
    assert len(told) == 20


def test_finetune_on_two_datasets(apiq: Command, tmp_path: Path) -> None:
    ids = []
    for name in ("train", "held-out"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"text": name}) + "\n")
        ids.append(apiq("datasets", "upload", f"{name}.jsonl").stdout.strip())
    asked = ("finetune", "tiny", ids[0], "--validation", ids[1])
    job = json.loads(apiq(*asked, "--json").stdout)
    assert (job["input"]["dataset"], job["input"]["validation"]) == (ids[0], ids[1])
    refused = apiq(*asked, "--validation-fraction", "0.1", code=1).stderr
    assert "validation_fraction is given too, 0.1; legal: one of them" in refused
    apiq("jobs", "cancel", job["id"])


def test_a_dataset_of_a_hub_that_is_away(apiq: Command) -> None:
    refused = apiq("datasets", "fetch", "org/name", "--split", "test", code=1)
    assert refused.stderr.rstrip().endswith("[hub_unreachable]")
