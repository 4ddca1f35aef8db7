"""A tar archive of objects, made as it is sent; its size is known before the first byte."""

import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime

END = bytes(2 * tarfile.BLOCKSIZE)

Open = Callable[[str, int, int], Iterator[bytes]]  # (key, start, end) -> chunks


@dataclass(frozen=True)
class Member:
    """One file of the archive."""

    name: str
    key: str  # in the artifact store
    size_bytes: int
    changed_at: datetime

    @property
    def header(self) -> bytes:
        info = tarfile.TarInfo(self.name)
        info.size = self.size_bytes
        info.mtime = int(self.changed_at.timestamp())
        info.mode = 0o644
        return info.tobuf(tarfile.PAX_FORMAT)

    @property
    def padding(self) -> bytes:
        return bytes(-self.size_bytes % tarfile.BLOCKSIZE)


def archive_size(members: list[Member]) -> int:
    """Bytes of the archive, for Content-Length."""
    sizes = (len(x.header) + x.size_bytes + len(x.padding) for x in members)
    return sum(sizes) + len(END)


def archive(members: list[Member], open_range: Open) -> Iterator[bytes]:
    """The archive's bytes; an object that is shorter than promised breaks the download."""
    for member in members:
        yield member.header
        sent_bytes = 0
        if member.size_bytes:
            for chunk in open_range(member.key, 0, member.size_bytes):
                sent_bytes += len(chunk)
                yield chunk
        if sent_bytes != member.size_bytes:
            raise OSError(f"{member.key}: {sent_bytes} bytes instead of {member.size_bytes}")
        yield member.padding
    yield END
