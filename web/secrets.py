"""Secrets for tasks: set, list without values, remove; and handed, sealed, to the worker that runs the task.

A value is opened in two places alone: here, to be sealed to one worker's key, and on that worker's machine.
"""

import base64
import secrets

import msgspec
from litestar import delete, get, post, put
from litestar.params import FromPath, JSONBody

from events.catalog import pool_subject
from events.protocol import OpenSecrets
from events.spec import SECRET_NAME, SecretUse
from infra.nkey import BadKey
from infra.sealed_box import seal_to
from infra.sealing import KeyDestroyed
from services.accounts.commands import RemoveSecret, SetSecret
from services.accounts.task_secrets import SecretGone
from web import schema
from web.administer import tell
from web.caller import caller_of, forbidden
from web.core import Core
from web.jobs import text_in
from web.params import CoreArg, problems
from web.problems import AnyRequest, Failed, bad_field, not_found, unavailable
from web.secrets_schema import SealedAnswer, SecretBody, SecretsAnswer, SecretView, TaskBody

BODY_BYTES_MAX = 128 * 1024
VALUE_ID_BYTES = 8
REACHED_S = 5.0
HELD = frozenset({"leased", "running"})
ONLY_ITS_WORKER = "the secrets of a task are for the worker that has a lease of it"


def _check_name(name: str) -> None:
    if not SECRET_NAME.match(name):
        raise bad_field("name", "must be 1 to 64 of letters, digits, _ . - and begin with a letter or digit")


@get("/v1/secrets", needs="jobs:own", summary="List your secrets for tasks, without values", responses=problems())
async def list_secrets(core: CoreArg, request: AnyRequest) -> SecretsAnswer:
    """Names and times."""
    known = core.access.state.secrets
    found = await core.people.secrets.names(caller_of(request).user)
    return SecretsAnswer([SecretView(name, set_at) for secret, name, set_at in found if secret in known])


@put(
    "/v1/secrets/{name:str}",
    needs="jobs:own",
    summary="Set a secret for tasks",
    description="Jobs name it in `secrets`; the value is shown to nobody again. Setting it again replaces the value.",
    responses=problems(409, 413, 422),
    request_max_body_size=BODY_BYTES_MAX,
)
async def set_secret(
    core: CoreArg, request: AnyRequest, name: FromPath[str], data: JSONBody[SecretBody]
) -> schema.Done:
    """Tasks that start from now on get this value."""
    _check_name(name)
    if "\0" in data.value:
        raise bad_field("value", "must not contain a NUL character; encode what is no text, for example in base64")
    caller, kept = caller_of(request), core.people.secrets
    await kept.put(caller.user, name, data.value)
    command = SetSecret(kept.id_of(caller.user, name), caller.user, secrets.token_hex(VALUE_ID_BYTES))
    try:
        return await tell(core, caller, command)
    except Failed:
        if command.secret not in core.access.state.secrets:
            await kept.remove(caller.user, name)
        raise


@delete(
    "/v1/secrets/{name:str}",
    needs="jobs:own",
    status_code=200,
    summary="Remove a secret",
    responses=problems(404, 409, 422),
)
async def remove_secret(core: CoreArg, request: AnyRequest, name: FromPath[str]) -> schema.Done:
    """Its value is destroyed; tasks that wait for it are rejected."""
    _check_name(name)
    caller, kept = caller_of(request), core.people.secrets
    secret = kept.id_of(caller.user, name)
    await kept.remove(caller.user, name)
    if secret not in core.access.state.secrets:
        raise not_found("secret", name, "list yours with GET /v1/secrets")
    return await tell(core, caller, RemoveSecret(secret, caller.user))


@post(
    "/v1/jobs/{job:str}/secrets",
    status_code=200,
    summary="A task's secrets, for the worker that runs it",
    description="With the ticket of the job alone, and while the worker has a lease of the task; sealed to its key.",
    responses=problems(404, 410),
)
async def give_secrets(
    core: CoreArg, request: AnyRequest, job: FromPath[str], data: JSONBody[TaskBody]
) -> SealedAnswer:
    """Sealed, so that nobody on the way reads them."""
    caller = caller_of(request)
    worker = caller.via.removeprefix("worker:")
    known = core.access.state.workers.get(worker)
    if not caller.ticket or known is None or known.banned:
        raise forbidden(ONLY_ITS_WORKER)
    await _check_lease(core, worker, job, data.index)
    owner, wanted = await _wanted(core, job)
    try:
        values = await core.people.secrets.values(owner, [use.name for use in wanted])
        opened = OpenSecrets(job, {use.env: value for use, value in zip(wanted, values, strict=True)})
        sealed = seal_to(known.public_key, msgspec.json.encode(opened))
    except SecretGone as error:
        raise Failed(410, "secret-gone", str(error), field=f"secrets[{error.at}]") from None
    except BadKey:
        raise forbidden("nothing can be sealed to this worker's key") from None
    return SealedAnswer(base64.b64encode(sealed).decode())


async def _check_lease(core: Core, worker: str, job: str, index: int) -> None:
    """Raise Failed unless the worker has a lease of the task now; it may be quicker than our reading of the log."""
    last = await core.log.last(pool_subject(core.pool))
    if not await core.reads.reached(last, REACHED_S):
        raise unavailable("the log is still being read")
    task = await core.reads.task(job, index)
    if task is None or task.worker != worker or task.state not in HELD:
        raise forbidden(ONLY_ITS_WORKER)


async def _wanted(core: Core, job: str) -> tuple[str, list[SecretUse]]:
    """Whose the job is, and the secrets that it names."""
    row = await core.reads.job(job)
    if row is None:
        raise not_found("job", job, "it is known no more")
    text = text_in(row, core.keys)
    if text is None:
        raise KeyDestroyed(job)
    return row.owner, text.secrets


ROUTES = [list_secrets, set_secret, remove_secret, give_secrets]
