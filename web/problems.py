"""Errors as RFC 9457 problem documents: what is wrong, in which field, and what to do about it.

Everything that leaves the API with a status of 400 or more goes through `problem_of`. A mistake of ours shows a trace
id and nothing of the inside; the log has the rest under the same id.
"""

import re
import secrets
from http import HTTPStatus
from typing import Any, NoReturn, TypeAlias, get_args

import msgspec
import structlog
from litestar.connection import Request
from litestar.datastructures import State
from litestar.exceptions import HTTPException, ValidationException
from litestar.exceptions.http_exceptions import RequestEntityTooLarge
from litestar.response import Response

from events.job import Kind
from events.log import LogUnavailable
from events.spec import BadSpec
from events.units import size_text
from infra.blobs import BlobMismatch, BlobMissing, BlobTooLarge
from infra.database import DatabaseAway
from infra.link import LinkDown
from infra.sealing import KeyAway, KeyDestroyed
from projections.rows import JobState, TaskState
from services.asking import Unavailable
from services.reads import ReadsUnavailable
from web.schema import JobOutcome, Problem

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = 1

AnyRequest: TypeAlias = Request[Any, Any, State]

_log = structlog.get_logger()
encode = msgspec.json.Encoder().encode


class Failed(Exception):
    """A request that ends with a problem document. `code` is the last part of its type."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        field: str = "",
        remedy: str = "",
        headers: dict[str, str] | None = None,
        jobs: list[JobOutcome] | None = None,
    ) -> None:
        super().__init__(detail)
        self.headers = headers or {}
        self.problem = Problem(
            type=f"urn:hive:problem:{code}",
            title=_title(code, status),
            status=status,
            detail=detail,
            field=field,
            remedy=remedy,
            jobs=jobs or [],
        )


class CannotEnrol(Exception):
    """This hive cannot take workers in by itself; the text says why and what to do."""


def unauthorized(detail: str) -> Failed:
    """Nobody we know."""
    remedy = "send `Authorization: Bearer <key>`; on the hive's machine the first key is in keys/admin.key of its data folder"
    return Failed(401, "unauthorized", detail, remedy=remedy, headers={"WWW-Authenticate": "Bearer"})


def bad_field(field: str, detail: str, remedy: str = "", status: int = 422) -> Failed:
    """A value that cannot be; `field` is a path such as `jobs[2].memory`."""
    return Failed(status, "bad-field", detail, field=field, remedy=remedy)


def not_found(what: str, name: str, remedy: str) -> Failed:
    """There is no such thing."""
    return Failed(404, "not-found", f"there is no {what} {name[:100]!r}", remedy=remedy)


def unavailable(detail: str, remedy: str = "try again in a moment") -> Failed:
    """A part of the platform is away."""
    return Failed(503, "unavailable", detail, remedy=remedy, headers={"Retry-After": str(RETRY_AFTER_S)})


_TITLES = {
    "bad-field": "A value is not possible",
    "bad-json": "The body is not the JSON that is expected",
    "bad-position": "Not a position",
    "too-large": "Too large",
    "quota": "More than you may have at once",
    "refused": "Refused",
    "unauthorized": "The key is missing or wrong",
    "forbidden": "Not allowed",
    "disk-full": "The disk is nearly full",
    "unavailable": "A part of the hive is away",
    "bug": "A mistake of ours",
}


def _title(code: str, status: int) -> str:
    return _TITLES.get(code) or HTTPStatus(status).phrase


def _of_litestar(error: HTTPException) -> Failed:
    status = error.status_code
    if isinstance(error, ValidationException):
        return _of_validation(error)
    if status == HTTPStatus.NOT_FOUND:
        return Failed(
            404, "not-found", "there is nothing at this path", remedy="see /schema/openapi.json for the paths"
        )
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        detail = "this path does not take this method"
        return Failed(405, "method-not-allowed", detail, remedy="see /schema/openapi.json", headers=error.headers or {})
    if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return Failed(413, "too-large", "the body is larger than this path takes", remedy="send less at once")
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return _bug(error)
    return Failed(status, "bad-request", error.detail)


def _of_validation(error: ValidationException) -> Failed:
    extra: Any = error.extra or [{}]
    first: dict[str, Any] = extra[0]
    message = str(first.get("message") or error.detail)
    field = str(first.get("key") or "")
    field = _NAMES.get(field, field)
    if first.get("source") == "body" or field == "data":
        at = _AT.match(message)
        here = "" if field == "data" else field
        return _bad_json(*((at[1], _field(at[2] or here, "")) if at else (message, here)))
    remedy = _choices(message, field) or "see /schema/openapi.json for what is allowed"
    return Failed(400, "bad-field", message[:500], field=field, remedy=remedy)


_NAMES = {
    "states": "state",
    "in_state": "state",
    "types": "type",
    "from_": "from",
    "part": "Range",
    **{name: name.replace("_", "-") for name in ("if_none_match", "idempotency_key", "last_event_id")},
}
"""What parameters are called outside, where it is not what the handler calls them."""
_AT = re.compile(r"(.*?)(?: - at `\$?(.*)`)?\Z", re.DOTALL)
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`\Z", re.DOTALL)
_CHOICES: dict[str, tuple[str, ...]] = {
    "kind": get_args(Kind),
    "state": tuple(dict.fromkeys((*get_args(JobState), *get_args(TaskState)))),
    "stream": ("both", "stdout", "stderr"),
}
"""What a field that is one of a few words may be."""
_REQUIRED = re.compile(r"Object missing required field `(.*)`\Z", re.DOTALL)


def _choices(message: str, field: str) -> str:
    """The remedy for a word that is none of those allowed; "" when it is not about that."""
    allowed = _CHOICES.get(field.rpartition(".")[2]) if message.startswith("Invalid enum value") else None
    return f"use one of {', '.join(allowed)}" if allowed else ""


def of_decoding(error: msgspec.DecodeError | UnicodeDecodeError, prefix: str = "") -> Failed:
    """A body that did not decode; `prefix` is put before the path of the field, such as `jobs` before `[3].memory`."""
    at = _AT.match(str(error))
    if not isinstance(error, msgspec.ValidationError) or at is None:
        return _bad_json(f"not JSON: {error}", prefix.strip(":"))
    return _bad_json(at[1], _field(at[2] or "", prefix))


def _field(path: str, prefix: str) -> str:
    return (prefix + path).strip(".")


def _bad_json(message: str, field: str) -> Failed:
    for pattern, says in ((_UNKNOWN, "is not a field that is known here"), (_REQUIRED, "is missing")):
        if found := pattern.match(message):
            field = f"{field}.{found[1]}".strip(".")[:500]
            return Failed(400, "bad-json", f"{field} {says}", field=field, remedy="see /schema/openapi.json")
    if message == "'data'":  # Litestar's word for no body at all
        message = "there is no body; this path wants one in JSON"
    detail = f"{field}: {message}" if field else message
    remedy = _choices(message, field) or "see /schema/openapi.json for the body's shape"
    return Failed(400, "bad-json", detail[:1000], field=field, remedy=remedy)


def failed_of(error: Exception) -> Failed:
    """The problem that an error means."""
    match error:
        case Failed():
            return error
        case BadSpec():
            return bad_field(error.field, _sentence(error.field, error.detail))
        case HTTPException():
            return _of_litestar(error)
        case BlobMissing():
            return not_found("blob", error.digest, "upload it first with PUT")
        case BlobMismatch():
            return Failed(422, "bad-digest", str(error), field="digest", remedy="send the bytes again")
        case BlobTooLarge():
            return Failed(413, "too-large", str(error), remedy="split it")
        case Unavailable() | LinkDown() | LogUnavailable():
            return unavailable(
                f"the log or its writer cannot be reached now: {error}", "try again; asking twice is safe"
            )
        case ReadsUnavailable():
            detail = f"lists and history are unavailable while the database is away ({error}); work goes on meanwhile"
            return unavailable(detail)
        case DatabaseAway():
            return unavailable(f"names, passwords and sessions are unavailable while the database is away ({error})")
        case KeyAway():
            return unavailable(str(error))
        case KeyDestroyed():
            return Failed(410, "erased", "what the user typed was erased")
        case CannotEnrol():
            return Failed(409, "refused", str(error))
        case _:
            return _bug(error)


def _sentence(field: str, detail: str) -> str:
    return f"{field} {detail}" if detail.startswith(("is ", "has ", "must ", "needs ")) else f"{field}: {detail}"


def _bug(error: Exception) -> Failed:
    trace = secrets.token_hex(8)
    _log.error("request.failed", trace=trace, exc_info=error)
    detail = "something went wrong inside; nothing is known to have changed"
    remedy = f"try again; if it happens again, look in the control plane's log for {trace}"
    failed = Failed(500, "bug", detail, remedy=remedy)
    failed.problem = msgspec.structs.replace(failed.problem, trace=trace)
    return failed


def respond(request: AnyRequest, error: Exception) -> Response[bytes]:
    """Litestar's handler for every exception."""
    failed = failed_of(error)
    if isinstance(error, RequestEntityTooLarge):
        limit: Any = request.route_handler.resolve_request_max_body_size()
        detail = f"the body is larger than {size_text(limit)}, the limit of this path"
        failed.problem = msgspec.structs.replace(failed.problem, detail=detail)
    return Response(
        encode(failed.problem), status_code=failed.problem.status, media_type=MEDIA_TYPE, headers=failed.headers
    )


def refuse_position(text: str) -> NoReturn:
    """A position that is none of ours."""
    detail = f"{text[:60]!r} is not a position"
    raise Failed(400, "bad-position", detail, field="min_position", remedy="use one that an answer gave, such as 1.42")
