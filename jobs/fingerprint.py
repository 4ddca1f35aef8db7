"""A fingerprint of a local checkpoint: of its content alone, so that a copy has the same."""

import functools
import hashlib
from pathlib import Path

from jobs.hub import PLAIN_FILES

# A POST must not wait until gigabytes are read, so of a large file its size, its beginning - for
# safetensors the header - and samples all over it have to do. Another training run changes every
# one of them. A few weights that were edited in place can be missed here, but not by the identity
# under which a job is resumed (`apiq_core.identity`): the worker reads everything anyway.
WHOLE_BYTES = 32 * 2**20  # up to here a file is read whole
BEGINNING_BYTES = 2**20
SAMPLES = 64
SAMPLE_BYTES = 64 * 1024


def fingerprint(directory: Path) -> str:
    """Over names and content of config, tokenizer and weights; what else lies there is no part."""
    digest = hashlib.sha256()
    for path in sorted(directory.iterdir()):
        if path.is_file() and (path.name in PLAIN_FILES or path.suffix == ".safetensors"):
            facts = path.stat()
            content = _content_sha256(path, facts.st_size, facts.st_mtime_ns)
            digest.update(f"{path.name}\0{facts.st_size}\0{content}\n".encode())
    return digest.hexdigest()[:16]


@functools.lru_cache(maxsize=1024)  # read once, until size or time tell of another content
def _content_sha256(path: Path, size_bytes: int, mtime_ns: int) -> str:
    with path.open("rb") as file:
        if size_bytes <= WHOLE_BYTES:
            return hashlib.file_digest(file, "sha256").hexdigest()
        digest = hashlib.sha256()
        digest.update(file.read(BEGINNING_BYTES))
        for sample in range(SAMPLES):  # the last one ends the file
            file.seek((size_bytes - SAMPLE_BYTES) * sample // (SAMPLES - 1))
            digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()
