"""OpenAI's files and batches: the objects, what a request for a batch may say, and lines of input and output.

The objects are kept on disk as they are sent. An input line is one request; an output line is its answer, and stands in
the batch's output file or, where the answer is a refusal or never came, in its error file.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from small4.errors import FieldError

Endpoint = Literal["/v1/chat/completions", "/v1/responses", "/v1/completions"]
Status = Literal["validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"]
Purpose = Literal["batch", "batch_output"]
Ending = Literal["completed", "failed", "expired", "cancelled"]

ENDED: frozenset[Status] = frozenset({"completed", "failed", "expired", "cancelled"})
MAX_CUSTOM_ID = 512  # characters
MAX_LISTED, DEFAULT_LISTED = 100, 20


class FileObject(Struct, kw_only=True):
    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int  # seconds since 1970, as all times here
    expires_at: int
    filename: str
    purpose: Purpose
    status: Literal["processed"] = "processed"
    status_details: None = None


class ExpiresAfter(Struct):
    anchor: Literal["created_at"]
    seconds: Annotated[int, Meta(ge=3600, le=2_592_000)]


class FileForm(Struct):
    """The parts of the form that brings a file."""

    purpose: Literal["batch"]
    file: Annotated[str, Meta(extra_json_schema={"contentMediaType": "application/octet-stream"})]


class BatchFields(Struct):
    """What a request for a batch may say."""

    input_file_id: Annotated[str, Meta(max_length=100)]
    endpoint: Endpoint
    completion_window: Literal["24h"]
    metadata: (
        Annotated[dict[Annotated[str, Meta(max_length=64)], Annotated[str, Meta(max_length=512)]], Meta(max_length=16)]
        | None
    ) = None
    output_expires_after: ExpiresAfter | None = None


class RequestCounts(Struct):
    total: int = 0
    completed: int = 0
    failed: int = 0


class BatchError(Struct):
    code: str
    message: str
    param: str | None = None
    line: int | None = None


class BatchErrors(Struct):
    data: list[BatchError]
    object: Literal["list"] = "list"


class BatchObject(Struct, kw_only=True):
    id: str
    object: Literal["batch"] = "batch"
    endpoint: Endpoint
    errors: BatchErrors | None = None
    input_file_id: str
    completion_window: Literal["24h"] = "24h"
    status: Status = "validating"
    output_file_id: str | None = None
    error_file_id: str | None = None
    created_at: int
    in_progress_at: int | None = None
    expires_at: int
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    request_counts: RequestCounts = msgspec.field(default_factory=RequestCounts)
    metadata: dict[str, str] | None = None


class _Body(Struct):
    stream: bool | None = None


class _Line(Struct):
    custom_id: Annotated[str, Meta(min_length=1, max_length=MAX_CUSTOM_ID)]
    url: str
    body: msgspec.Raw
    method: Literal["POST"] = "POST"


class _CustomId(Struct):
    custom_id: str | None = None


def parse_line(line: bytes, endpoint: Endpoint) -> tuple[str, bytes]:
    """The `custom_id` and the request's body of one line of input; raises what is wrong with it."""
    try:
        fields = msgspec.json.decode(line, type=_Line)
        body = msgspec.json.decode(fields.body, type=_Body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise FieldError(f"the line is not a request: {str(error)[:200]}") from None
    except RecursionError:
        raise FieldError("the line nests too deeply; flatten it") from None
    if fields.url != endpoint:
        raise FieldError(f"the line is not for {endpoint}, the endpoint of its batch", "url")
    if body.stream:
        raise FieldError("an answer in a batch cannot be streamed; leave stream out", "body.stream")
    return fields.custom_id, bytes(fields.body)


def custom_id_of(line: bytes) -> str | None:
    """The id of a line that may be wrong otherwise, so that its error can be told from others'."""
    try:
        found = msgspec.json.decode(line, type=_CustomId).custom_id
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return None if found is None else found[:MAX_CUSTOM_ID]


def format_answer(line_id: str, custom_id: str | None, status: int, request_id: str, body: bytes) -> bytes:
    """The line of a request that was answered or refused; `body` is that answer's JSON."""
    response = {"status_code": status, "request_id": request_id, "body": msgspec.Raw(body)}
    return _encode({"id": line_id, "custom_id": custom_id, "response": response, "error": None})


def format_failure(line_id: str, custom_id: str | None, code: str, message: str) -> bytes:
    """The line of a request that nobody answered."""
    error = {"code": code, "message": message}
    return _encode({"id": line_id, "custom_id": custom_id, "response": None, "error": error})


def format_list(objects: Sequence[FileObject] | Sequence[BatchObject], limit: int, after: str | None) -> dict[str, Any]:
    """A page of a list, from behind the object `after`."""
    ids = [found.id for found in objects]
    if after is not None and after not in ids:
        raise FieldError("after names nothing in this list", "after")
    start = 0 if after is None else ids.index(after) + 1
    page = objects[start : start + limit]
    return {
        "object": "list",
        "data": page,
        "first_id": page[0].id if page else None,
        "last_id": page[-1].id if page else None,
        "has_more": start + limit < len(objects),
    }


def format_deleted_file(file_id: str) -> dict[str, Any]:
    return {"id": file_id, "object": "file", "deleted": True}


_encode = msgspec.json.Encoder().encode
