"""The body of an upload, raw or in a form, into a `jobs.datasets.upload.Upload`."""

import json
import re
from collections.abc import Callable
from pathlib import PurePosixPath

from fastapi import Request
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool

from api.datasets.forms import MAX_OVERHEAD_BYTES, MEDIA_TYPE, FileForm
from api.limits import DRAIN_BYTES
from api.problems import ApiError
from api.validation import describe, quoted
from apiq_core.errors import UserError
from jobs.datasets.files import ROWS, SUFFIXES, TEXT
from jobs.datasets.hub_splits import HubDataset
from jobs.datasets.upload import Upload

MAX_NAME_CHARACTERS = 200
MAX_JSON_BYTES = 64 * 1024
JSON = "application/json"

KINDS = {
    "text/plain": TEXT,
    "application/jsonl": ROWS,
    "application/x-ndjson": ROWS,
    "application/x-jsonlines": ROWS,
}
ROW = '{"question": "How many legs has a spider?", "answer": "Eight."}'
REQUEST_BODY = {
    "required": True,
    "content": {
        "text/plain": {"schema": {"type": "string"}, "example": "Plain UTF-8 text ..."},
        **{
            media_type: {"schema": {"type": "string"}, "example": f"{ROW}\n"}
            for media_type, kind in KINDS.items()
            if kind == ROWS
        },
        JSON: {
            "schema": HubDataset.model_json_schema(),
            "example": {"hub": "org/name", "split": "train"},
        },
        MEDIA_TYPE: {
            "schema": {
                "type": "object",
                "required": ["file"],
                "properties": {
                    "file": {
                        "type": "string",
                        "format": "binary",
                        "description": "Its suffix says what is in it: "
                        + ", ".join(f"`{suffix}`" for suffix in SUFFIXES)
                        + ".",
                    }
                },
                "additionalProperties": False,
            }
        },
    },
}


def media_type_of(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def read_hub_dataset(request: Request) -> HubDataset:
    """The body of a request for a dataset of the hub."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_JSON_BYTES:
            raise ApiError("body_too_large", f"the body is over {MAX_JSON_BYTES} bytes")
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        legal = 'legal: {"hub": "org/name"}; rows are application/jsonl'
        raise ApiError("malformed_json", f"the body is not JSON: {error}; {legal}") from None
    try:
        return HubDataset.model_validate(content)
    except ValidationError as error:
        entries = [{**entry, "loc": ("body", *entry["loc"])} for entry in error.errors()]
        first = describe(entries[0], HubDataset)
        raise ApiError(
            "invalid_request",
            first.detail,
            pointer=first.pointer,
            value=first.value,
            legal=first.legal,
        ) from None


async def receive(request: Request, upload: Upload) -> str | None:
    """Check and keep the body; the name of the file, if it came in a form with one."""
    _refuse_compressed(request)
    content_type = request.headers.get("content-type", "")
    media_type = media_type_of(request)
    if media_type == MEDIA_TYPE:
        return await _receive_form(request, content_type, upload)
    if media_type not in KINDS:
        legal = [*KINDS, MEDIA_TYPE, JSON]
        raise ApiError(
            "unsupported_media_type",
            f"content-type is {quoted(media_type)}; legal: {', '.join(legal)} (in UTF-8)",
            pointer="Content-Type:",
            value=media_type,
            legal=legal,
        )
    upload.begin(KINDS[media_type])
    await _receive(request, upload, upload.write)
    return None


def _refuse_compressed(request: Request) -> None:
    encoding = request.headers.get("content-encoding", "")
    if encoding.strip().lower() not in ("", "identity"):
        legal = "a body that is not compressed, without this header"
        raise ApiError(
            "unsupported_media_type",
            f"content-encoding is {quoted(encoding)}; legal: {legal}",
            pointer="Content-Encoding:",
            value=encoding,
            legal=legal,
        )


async def _receive_form(request: Request, content_type: str, upload: Upload) -> str:
    names: list[str] = []

    def begin(file_name: str) -> None:
        file_name = re.split(r"[/\\]", file_name)[-1]  # RFC 7578 4.2: never a path
        upload.begin(_kind_of(file_name))
        check_name(file_name, "Content-Disposition:")
        names.append(file_name)

    form = FileForm(content_type, begin, upload.write)
    await _receive(request, upload, form.write, overhead_bytes=MAX_OVERHEAD_BYTES)
    form.finish()
    return names[0]


async def _receive(
    request: Request, upload: Upload, write: Callable[[bytes], None], overhead_bytes: int = 0
) -> None:
    """What is refused is still read up to a bound: a client that is writing would otherwise meet
    a reset connection instead of the answer."""
    refusal: UserError | ApiError | None = None
    drained_bytes = 0
    declared = request.headers.get("content-length", "")
    try:
        upload.expect((int(declared[:20]) if declared.isdigit() else 0) - overhead_bytes)
    except UserError as error:
        refusal = error
    async for chunk in request.stream():
        if refusal is None:
            try:
                await run_in_threadpool(write, chunk)
            except (UserError, ApiError) as error:
                refusal = error
        else:
            drained_bytes += len(chunk)
            if drained_bytes > DRAIN_BYTES:
                break
    if refusal is not None:
        raise refusal


def _kind_of(file_name: str) -> str:
    suffix = PurePosixPath(file_name).suffix.lower()
    if suffix not in SUFFIXES:
        raise ApiError(
            "invalid_request",
            f"the file is called {quoted(file_name)}; legal: a name that ends in "
            + ", ".join(SUFFIXES),
            pointer="Content-Disposition:",
            value=file_name[:MAX_NAME_CHARACTERS],
            legal=list(SUFFIXES),
        )
    return SUFFIXES[suffix]


def check_name(name: str, pointer: str) -> None:
    """Refuse what nobody could read in a list."""
    if not name.isprintable() or not name.strip() or len(name) > MAX_NAME_CHARACTERS:
        raise ApiError(
            "invalid_request",
            f"name is {quoted(name)}; legal: 1 to {MAX_NAME_CHARACTERS} printable characters",
            pointer=pointer,
        )
