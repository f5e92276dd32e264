"""How machines come in: enrolment tokens, and joining with one. Joining needs no key: the token is what lets it in, and
the machine proves to hold the secret half of its key.
"""

import base64
import binascii
import time

import msgspec
from litestar import delete, get, post
from litestar.params import FromPath, JSONBody

from infra.nkey import BadKey, verify
from projections.access import Enrolment
from services.accounts.commands import Enrol, IssueEnrolment, RevokeEnrolment
from services.accounts.keys import digest_of, id_of, new_text, pinned
from web import schema
from web.administer import administer, tell
from web.caller import NOBODY, WORKERS_CHANGE, Caller, caller_of, forbidden
from web.core import Network
from web.keys_schema import EnrolmentBody, EnrolmentsAnswer, EnrolmentView, JoinBody, NewEnrolment, join_text
from web.params import CoreArg, problems
from web.problems import AnyRequest, bad_field, not_found

JOIN_BYTES_MAX = 4096
_NO_SCOPES: frozenset[str] = frozenset()


def _now() -> int:
    return time.time_ns() // 1_000_000


def _view(name: str, token: Enrolment) -> EnrolmentView:
    state = "revoked" if token.revoked else "live" if token.live(_now()) else "over"
    return EnrolmentView(name, token.owner, token.pool, token.uses, token.used, token.since, token.expires_at, state)


@get("/v1/enrolments", needs=WORKERS_CHANGE, summary="List enrolment tokens", responses=problems())
async def list_enrolments(core: CoreArg, request: AnyRequest) -> EnrolmentsAnswer:
    """The caller's, or everybody's for who looks after all workers."""
    caller, tokens = caller_of(request), core.access.state.enrolments
    shown = [
        _view(name, token)
        for name, token in tokens.items()
        if not token.revoked and caller.sees(token.owner, "workers:all")
    ]
    return EnrolmentsAnswer(shown)


@post("/v1/enrolments", needs=WORKERS_CHANGE, summary="Make an enrolment token", responses=problems(404, 409, 422))
async def make_enrolment(core: CoreArg, request: AnyRequest, data: JSONBody[EnrolmentBody]) -> NewEnrolment:
    """Its text is in this answer and nowhere else."""
    caller = caller_of(request)
    owner = data.owner or caller.user
    if owner != caller.user and not caller.may("workers:all"):
        raise forbidden("you may bring in workers of your own only")
    text = new_text("hivw")
    digest = digest_of(text)
    ends_at = _now() + data.expires_in * 1000
    labels = (
        core.keys.seal(owner, msgspec.json.encode(data.labels))
        if data.labels and owner in core.access.state.users
        else None
    )
    command = IssueEnrolment(id_of("e", digest), owner, digest, core.pool, data.uses, ends_at, labels)
    await administer(core, caller, command, "enrolment.issue", command.enrolment)
    made = _view(command.enrolment, core.access.state.enrolments[command.enrolment])
    return NewEnrolment(pinned(text, core.network.ca_pin), made, _reached_at(core.network, request))


def _reached_at(network: Network, request: AnyRequest) -> str:
    """Where other machines reach this API, "" where it cannot tell."""
    if network.public_url or not network.api_host:
        return network.public_url
    _, port = request.scope["server"] or ("", 0)
    return f"https://{network.api_host}:{port}"


@delete(
    "/v1/enrolments/{enrolment:str}",
    needs=WORKERS_CHANGE,
    status_code=200,
    summary="Revoke an enrolment token",
    responses=problems(404, 409),
)
async def revoke_enrolment(core: CoreArg, request: AnyRequest, enrolment: FromPath[str]) -> schema.Done:
    """It brings no more workers in; those that came stay."""
    caller = caller_of(request)
    token = core.access.state.enrolments.get(enrolment)
    if token is None or not caller.sees(token.owner, "workers:all"):
        raise not_found("enrolment", enrolment, "list yours with GET /v1/enrolments")
    return await administer(core, caller, RevokeEnrolment(enrolment), "enrolment.revoke", enrolment)


def _is_signed(data: JoinBody) -> bool:
    try:
        signature = base64.b64decode(data.signature, validate=True)
    except (binascii.Error, ValueError):
        return False
    return verify(data.public_key, join_text(data.token, data.public_key), signature)


@post(
    "/v1/workers/join",
    needs=NOBODY,
    summary="Join with an enrolment token",
    description="Needs no key: the token lets the machine in. Asking twice is safe.",
    responses=problems(409, 413, 422),
    request_max_body_size=JOIN_BYTES_MAX,
)
async def join(core: CoreArg, data: JSONBody[JoinBody]) -> schema.EnrolAnswer:
    """Let a machine connect."""
    try:
        worker = core.worker_id(data.public_key)
    except BadKey as error:
        raise bad_field("public_key", str(error)) from None
    if not _is_signed(data):
        raise bad_field("signature", "is not that of this key over `hive.join.<digest of the token>.<public key>`")
    url = core.workers_url()
    token = core.access.state.enrolments.get(core.access.state.enrolment_of.get(digest_of(data.token), ""))
    name = core.keys.seal(token.owner, data.name.encode()) if data.name and token else None
    command = Enrol(worker, data.public_key, core.pool, digest_of(data.token), name=name)
    await tell(core, Caller("", _NO_SCOPES, f"worker:{worker}"), command)
    return schema.EnrolAnswer(worker, core.pool, url, core.network.nats_ca)


ROUTES = [list_enrolments, make_enrolment, revoke_enrolment, join]
