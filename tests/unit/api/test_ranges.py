import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.jobs.ranges import ByteRange, RangeNotSatisfiable, parse_range


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, None),
        ("bytes=0-0", ByteRange(0, 1)),
        ("bytes=2-", ByteRange(2, 10)),
        ("bytes=2-4", ByteRange(2, 5)),
        ("bytes=2-99", ByteRange(2, 10)),
        ("bytes=-3", ByteRange(7, 10)),
        ("bytes=-99", ByteRange(0, 10)),
        # malformed or several: the whole file
        ("bytes=-", None),
        ("bytes=4-2", None),
        ("bytes=0-1,4-5", None),
        ("lines=0-1", None),
        ("bytes=٣-", None),  # digits, but not of ASCII
        ("bytes=" + "9" * 5000 + "-", None),
    ],
)
def test_what_is_asked_for(header: str | None, expected: ByteRange | None) -> None:
    assert parse_range(header, 10) == expected


@pytest.mark.parametrize(
    "header", ["bytes=10-", "bytes=10-20", "bytes=-0", "bytes=" + "9" * 19 + "-"]
)
def test_past_the_end(header: str) -> None:
    with pytest.raises(RangeNotSatisfiable):
        parse_range(header, 10)


@given(st.text(alphabet="bytes=-0123456789, ", max_size=20), st.integers(0, 100))
def test_never_outside_of_the_file(header: str, size_bytes: int) -> None:
    try:
        found = parse_range(header, size_bytes)
    except RangeNotSatisfiable:
        return
    assert found is None or 0 <= found.start < found.end <= size_bytes
