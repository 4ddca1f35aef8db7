"""Forms with one file, in any chunks, and all the others."""

import re

import pytest

from api.datasets.forms import MAX_OVERHEAD_BYTES, FileForm
from api.problems import ApiError

TYPE = "multipart/form-data; boundary=x-y"
END = b"\r\n--x-y--\r\n"


def part(disposition: str, content: bytes = b"") -> bytes:
    head = f"--x-y\r\nContent-Disposition: form-data; {disposition}\r\n"
    return head.encode() + b"Content-Type: text/plain\r\n\r\n" + content


FILE = part('name="file"; filename="a.txt"', b"12\r\n--x-\r\n3")


def read(body: bytes, step: int = 7, content_type: str = TYPE) -> tuple[list[str], bytes]:
    names: list[str] = []
    content = bytearray()
    form = FileForm(content_type, names.append, content.extend)
    for start in range(0, len(body), step):
        form.write(body[start : start + step])
    form.finish()
    return names, bytes(content)


@pytest.mark.parametrize("step", [1, 2, 3, 5, 1000])
def test_a_file_in_any_chunks(step: int) -> None:
    assert read(FILE + END, step) == (["a.txt"], b"12\r\n--x-\r\n3")


def test_an_empty_file() -> None:
    assert read(part('name="file"; filename="a.txt"') + END) == (["a.txt"], b"")


@pytest.mark.parametrize(
    ("quoted", "name"),
    [
        ('"Grüße 🦊.jsonl"', "Grüße 🦊.jsonl"),
        (r'"a\"b.txt"', 'a"b.txt'),
        ('"a;b.txt"', "a;b.txt"),
        ("a.txt", "a.txt"),
    ],
)
def test_names(quoted: str, name: str) -> None:
    assert read(part(f'name="file"; filename={quoted}', b"1") + END)[0] == [name]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"--x-y--\r\n", "the form has no part"),
        (part('name="name"', b"fox") + END, "the part 'name' is no file"),
        (part('name="file"; filename=""') + END, "the part 'file' is no file"),
        (b"--x-y\r\nContent-Type: text/plain\r\n\r\n1" + END, "the part '' is no file"),
        (FILE + b"\r\n" + FILE + END, "another part beside the file"),
        (FILE + b"\r\n" + part('name="name"', b"fox") + END, "another part beside the file"),
        (FILE.replace(b"a.txt", b"\xff.txt") + END, r"b'\xff.txt' is not UTF-8"),
    ],
)
@pytest.mark.parametrize("step", [1, 1000])
def test_forms_that_are_refused(body: bytes, says: str, step: int) -> None:
    with pytest.raises(ApiError, match=re.escape(says)) as caught:
        read(body, step)
    assert (caught.value.code, caught.value.pointer) == ("invalid_request", "Content-Disposition:")
    assert "UTF-8" in says or "legal: one part, a file" in caught.value.detail


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "breaks off"),
        (FILE, "breaks off"),
        (FILE + END[:-5], "breaks off"),
        (b"hello", "Expected boundary"),
        (b"--other\r\n", "Expected boundary"),
        (b"--x-y\r\nno header\r\n\r\n", "invalid"),
        (b"--x-y\r\nA: " + b"b" * 100_000, "header size"),
        (b"--x-y\r\n" + b"A: b\r\n" * 1000, "header count"),
        (FILE + END + b"e" * (MAX_OVERHEAD_BYTES + 1), "beside the file"),
        (b"\r\n" * MAX_OVERHEAD_BYTES + FILE + END, "beside the file"),
    ],
)
def test_bodies_that_are_no_form(body: bytes, says: str) -> None:
    with pytest.raises(ApiError, match=f"(?i){says}") as caught:
        read(body, 4096)
    assert (caught.value.code, caught.value.pointer) == ("bad_request", "Content-Type:")
    assert "legal: multipart/form-data with one part, a file" in caught.value.detail


@pytest.mark.parametrize(
    "content_type", ["multipart/form-data", f"{TYPE[:-3]}", f"{TYPE}{'z' * 999}"]
)
def test_boundaries_that_are_none(content_type: str) -> None:
    with pytest.raises(ApiError, match=r"(?i)boundary"):
        read(FILE + END, content_type=content_type)
