"""Rows as people have them, and what is said of those that are none."""

import json
from pathlib import Path
from typing import Any

import pytest

from apiq_core.errors import UserError
from apiq_core.finetune.data import read as data
from apiq_core.finetune.data.read import MAX_LINE_BYTES, SHOWN_BAD_ROWS, read_rows
from apiq_core.finetune.data.rows import BadRow, Segment, parse

CALLING = {"role": "assistant", "content": "Let me look."}


def row(**fields: Any) -> str:
    return json.dumps(fields)


@pytest.mark.parametrize(
    ("line", "before", "learned"),
    [
        (row(text="All of it."), "", "All of it."),
        (row(text="All of it.", id=3), "", "All of it."),
        (row(prompt="2+2=", completion="4"), "2+2=", "4"),
        (row(prompt="", completion="4"), "", "4"),
        (row(question="", answer="4"), "Question: \nAnswer:", " 4"),
        (row(text="All of it.", question="How?", answer="4"), "Question: How?\nAnswer:", " 4"),
        (row(question="How?", answer="4", completion="5", prompt="2+3="), "2+3=", "5"),
        (row(question="How many?", answer="#### 4"), "Question: How many?\nAnswer:", " #### 4"),
        (
            row(instruction="Add.", input="2 and 2", output="4", id=7),
            "### Instruction:\nAdd.\n\n### Input:\n2 and 2\n\n### Response:\n",
            "4",
        ),
        (
            row(instruction="Say four.", input="", output="4"),
            "### Instruction:\nSay four.\n\n### Response:\n",
            "4",
        ),
    ],
)
def test_shapes(line: str, before: str, learned: str) -> None:
    *prompt, last = parse(line).segments
    assert "".join(segment.text for segment in prompt) == before
    assert not any(segment.learned for segment in prompt)
    assert last == Segment(learned, True)


def test_a_chat_waits_for_its_template() -> None:
    said = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho", "x": 1}]
    found = parse(row(messages=said))
    assert found.shape == "messages"
    assert found.segments == ()
    assert found.messages[1] == {"role": "assistant", "content": "Ho"}


@pytest.mark.parametrize(
    ("line", "field", "says"),
    [
        ("{", "", "not JSON: Expecting property name enclosed in double quotes at character 2"),
        ("[" * 100_000, "", "nested too deeply"),
        ('{"text": ' + "1" * 5000 + "}", "", "not JSON that anybody reads: a number of"),
        ('{"text": "a\tb"}', "", "not JSON: Invalid control character at character 12"),
        ('{"a\\u001b[31m\\ud800": 1}', "", r"has 'a\x1b[31m\ud800', legal"),
        (r'{"text": "a \ud83e"}', "text", r"half of a surrogate pair, '\ud83e', legal: text"),
        (r'{"messages": [{"role": "\udfff", "content": ""}]}', "messages[0].role", r"'\udfff'"),
        ("[1]", "", "a list, legal: a JSON object"),
        ("{}", "", "has no fields, legal: messages; prompt"),
        (row(txt="a"), "", "has txt, legal"),
        (row(text=""), "text", "nothing carries loss"),
        (row(text=3), "text", "a number, legal: text"),
        (row(text="a", label=1), "label", "classes cannot be learned yet"),
        (row(prompt="a"), "completion", "missing; the row has prompt"),
        (row(prompt="a", completion=" \n"), "completion", "nothing carries loss"),
        (row(prompt=None, completion="a"), "prompt", "null, legal: text"),
        (row(question="a", answer=["b"]), "answer", "a list, legal: text"),
        (row(instruction="a", output="b", input=[1]), "input", "a list, legal: text"),
        (row(messages=[]), "messages", "empty, legal: a list of messages"),
        (row(messages=["a"]), "messages[0]", "text, legal: an object"),
        (row(messages=[{"role": "user"}]), "messages[0].content", "missing, legal: text"),
        (row(messages=[{"role": "me", "content": "a"}]), "messages[0].role", "'me', legal: system"),
        (row(messages=[{"role": "user", "content": "a"}]), "messages", "assistant says nothing"),
        (row(messages=[CALLING | {"tool_calls": [{}]}]), "messages[0].tool_calls", "calls cannot"),
    ],
)
def test_what_is_no_row(line: str, field: str, says: str) -> None:
    with pytest.raises(BadRow) as caught:
        parse(line)
    assert caught.value.field == field
    assert says in caught.value.reason


def test_a_file_is_read_to_its_end(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b'\xef\xbb\xbf{"text": "a"}\n\n{"text": "b"}\r\n{"text": "a"}')
    rows, findings = read_rows(file)
    assert [line for line, _ in rows] == [1, 3, 4]
    assert (findings.rows, findings.duplicates) == (3, 1)


def test_bad_lines_are_counted_and_the_first_are_told(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    long = b'{"text": "' + b"x" * MAX_LINE_BYTES + b'"}\n'
    file.write_bytes(b'{"text": "a"}\n{"text": "\xff"}\n' + long + b"{}\n" * 30 + b'{"text": "b"}')
    with pytest.raises(UserError) as caught:
        read_rows(file)
    error = caught.value
    assert error.code == "bad_rows"
    assert error.message.startswith(
        "32 lines are no rows; line 2: byte 10 of the line is not UTF-8"
    )
    assert len(error.value) == SHOWN_BAD_ROWS
    assert error.value[1] == {
        "line": 3,
        "field": "",
        "reason": f"longer than {MAX_LINE_BYTES} bytes",
    }
    assert error.value[2]["line"] == 4


def test_a_turn_without_calls_may_say_so() -> None:
    (message,) = parse(row(messages=[CALLING | {"tool_calls": None, "function_call": {}}])).messages
    assert message == CALLING


@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_an_empty_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "rows.jsonl").write_bytes(content)
    with pytest.raises(UserError, match="no rows"):
        read_rows(tmp_path / "rows.jsonl")


def test_duplicates_are_counted_among_the_first_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "COMPARED_ROWS", 2)
    (tmp_path / "rows.jsonl").write_text("".join(row(text=x) + "\n" for x in "abccab"))
    _, findings = read_rows(tmp_path / "rows.jsonl")
    assert (findings.rows, findings.duplicates) == (6, 2)
