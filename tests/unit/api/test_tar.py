import io
import tarfile
from datetime import UTC, datetime

import pytest

from api.jobs.tar import Member, archive, archive_size

WHEN = datetime(2026, 1, 2, tzinfo=UTC)
CONTENTS = {
    "job/empty": b"",
    "job/one": b"x",
    "job/block": b"y" * 512,
    "job/" + "long/" * 60 + "name": b"z" * 1000,
    "job/ümlaut": b"u" * 513,
}


def members() -> list[Member]:
    return [Member(name, name, len(content), WHEN) for name, content in CONTENTS.items()]


def content_of(tar: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(info)
    assert file is not None, info.name
    return file.read()


def test_stock_tar_reads_it_and_the_size_is_right() -> None:
    content = b"".join(archive(members(), lambda key, a, b: iter([CONTENTS[key][a:b]])))
    assert len(content) == archive_size(members())
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        found = {info.name: content_of(tar, info) for info in tar}
        assert {info.mtime for info in tar} == {WHEN.timestamp()}
    assert found == CONTENTS


def test_an_object_that_is_too_short_breaks_the_download() -> None:
    with pytest.raises(OSError, match="999 bytes instead of 1000"):
        for _ in archive([Member("a", "a", 1000, WHEN)], lambda *_: iter([bytes(999)])):
            pass
