"""Uploads are cut anywhere, and what is in them is found all the same."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apiq_core.errors import UserError
from apiq_core.finetune.data.read import MAX_LINE_BYTES, BadRows, Lines
from jobs.datasets.contents import Content, RowsContent, TextContent

ROWS = [
    {"question": "Wie heißt der Fuchs? 🦊", "answer": "Viktor"},
    {"text": "ü" * 50},
    {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]},
    {"text": "ü" * 50},
]
FILE = "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS)


def write(content: Content, data: bytes, step: int) -> None:
    for start in range(0, len(data), step):
        content.write(data[start : start + step])
    content.finish()


@pytest.mark.parametrize("step", [1, 2, 3, 7, 64, 10_000])
def test_rows_in_any_chunks(step: int) -> None:
    content = RowsContent()
    write(content, FILE.encode(), step)
    assert (content.kind, content.rows, content.duplicates) == ("rows", 4, 1)
    assert content.longest_row_characters == 50
    assert content.characters == len(FILE)


@pytest.mark.parametrize("step", [1, 2, 3, 10_000])
def test_bad_rows_in_any_chunks(step: int) -> None:
    data = b'{"text": "a"}\n\n{"text": "\xff"}\r\n{"messages": [{"role": "me", "content": ""}]}'
    with pytest.raises(BadRows) as caught:
        write(RowsContent(), data, step)
    assert caught.value.message.startswith("2 lines are no rows; line 3: byte 10 of the line")
    assert [problem.place for problem in caught.value.problems] == [
        "line 3",
        "line 4, messages[0].role",
    ]
    assert caught.value.problems[1].reason == "'me', legal: system, user, assistant, tool"


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "utf-16-le", "utf-32"])
def test_rows_in_another_encoding(encoding: str) -> None:
    data = '{"text": "naïve"}\n{"text": "café"}\n'.encode(encoding)
    with pytest.raises(BadRows) as caught:
        write(RowsContent(), data, 5)
    assert caught.value.problems[0].line == 1
    assert caught.value.message.startswith(("2 lines are no rows", "3 lines are no rows"))


@pytest.mark.parametrize("data", [b"", b"\n", b" \r\n\t\n", b"\xef\xbb\xbf\n"])
def test_no_rows(data: bytes) -> None:
    with pytest.raises(UserError) as caught:
        write(RowsContent(), data, 1)
    assert (caught.value.code, caught.value.param) == ("empty_dataset", None)


@pytest.mark.parametrize("padding", [b"x", b" "])
@pytest.mark.parametrize("step", [1000, 2**16 + 1])
def test_of_a_line_that_is_too_long_little_is_kept(padding: bytes, step: int) -> None:
    lines = Lines()
    data = b'{"text": "a"}\n' + padding * (3 * MAX_LINE_BYTES) + b"\n" + b'{"text": "b"}'
    found: list[tuple[int, bytes]] = []
    for start in range(0, len(data), step):
        found += lines.feed(data[start : start + step])
        assert len(lines._held) <= MAX_LINE_BYTES + 1
    found += lines.end()
    assert [(number, len(line)) for number, line in found] == [
        (1, 13),
        (2, MAX_LINE_BYTES + 1),
        (3, 13),
    ]


def test_the_longest_line() -> None:
    row = b'{"text": "' + b"x" * (MAX_LINE_BYTES - 12) + b'"}'
    assert len(row) == MAX_LINE_BYTES
    content = RowsContent()
    write(content, row + b"\n" + row, 2**16)
    assert content.rows == 2
    with pytest.raises(BadRows, match=r"^1 line is no row; line 2: longer than 1048576 bytes$"):
        write(RowsContent(), b'{"text": "a"}\n' + row + b" \n", 2**16)


@given(st.lists(st.sampled_from([b"a", b"\n", b"\r\n", b" ", "ü".encode()])), st.data())
def test_lines_are_those_of_the_whole(pieces: list[bytes], data: st.DataObject) -> None:
    whole = b"".join(pieces)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)))))
    lines = Lines()
    found = [
        line
        for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)
        for line in lines.feed(whole[start:end])
    ]
    found += lines.end()
    assert found == [(n, line) for n, line in enumerate(whole.split(b"\n"), 1) if line.strip()]


@pytest.mark.parametrize("step", [1, 3, 10_000])
def test_text_in_any_chunks(step: int) -> None:
    content = TextContent()
    write(content, FILE.encode(), step)
    assert (content.characters, content.rows, content.duplicates) == (len(FILE), None, None)
