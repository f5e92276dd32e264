"""Workers' NATS JWTs and keys. The paths are open: the request itself proves who asks, with the worker's own nkey."""

from typing import Any

import msgspec
from litestar import post
from litestar.params import JSONBody

from infra.renewal import (
    KEY_TAKEN,
    NOT_ENROLLED,
    PATH,
    REKEY_PATH,
    REPLAYED,
    STALE,
    TOO_MANY,
    CredentialAnswer,
    CredentialBody,
    RekeyAnswer,
    RekeyBody,
)
from services.credentials import CredentialRefused
from web.caller import NOBODY
from web.params import CoreArg, problems
from web.problems import Failed

BODY_BYTES_MAX = 4096
RETRY_AFTER_S = 60
_STATUSES = {NOT_ENROLLED: 403, STALE: 409, REPLAYED: 409, KEY_TAKEN: 409, TOO_MANY: 429}


@post(
    PATH,
    needs=NOBODY,
    status_code=200,
    summary="Give a worker its NATS JWT",
    description="For an enrolled worker, which signs the request with its nkey; good once. Problems tell the time too.",
    responses=problems(409, 413),
    request_max_body_size=BODY_BYTES_MAX,
)
async def credential(core: CoreArg, data: JSONBody[CredentialBody]) -> CredentialAnswer:
    """A JWT, to whoever has the key."""
    try:
        return await core.credentials.issue(data)
    except CredentialRefused as refused:
        raise _failed(refused) from None


@post(
    REKEY_PATH,
    needs=NOBODY,
    status_code=200,
    summary="Have a worker be known by another key",
    description="The worker signs the request with both nkeys. The old one opens nothing from then on; what runs goes on.",
    responses=problems(409, 413),
    request_max_body_size=BODY_BYTES_MAX,
)
async def rekey(core: CoreArg, data: JSONBody[RekeyBody]) -> RekeyAnswer:
    """To whoever has both keys."""
    try:
        return await core.credentials.rekey(data)
    except CredentialRefused as refused:
        raise _failed(refused) from None


def _failed(refused: CredentialRefused) -> Failed:
    status = _STATUSES[refused.code]
    headers: dict[str, Any] = {"Retry-After": str(RETRY_AFTER_S)} if refused.code == TOO_MANY else {}
    failed = Failed(status, refused.code, refused.detail, remedy=refused.remedy, headers=headers)
    failed.problem = msgspec.structs.replace(failed.problem, now=refused.now)
    return failed


ROUTES = [credential, rekey]
