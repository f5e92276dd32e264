"""From requests about money to commands for the ledger: ids, digests, accounts by name; and what comes back."""

import base64
import hashlib
import os
import secrets
from collections.abc import Iterable
from typing import Any

import msgspec

from events.base import Digest, Sealed, UserId
from events.catalog import ACCOUNTS_SUBJECT
from events.ledger import FEES, MINT, TREASURY, AccountId, Posting, TransferId, TransferKind, user_account
from infra.sealing import KeyAway, KeyDestroyed
from services.asking import Accepted, RefusedAnswer
from services.ledger.commands import Command, Transfer
from web.caller import Caller
from web.core import Core
from web.ledger_schema import Leg
from web.problems import Failed, bad_field, not_found
from web.submit import ID_BYTES

OWN_ACCOUNTS = frozenset({MINT, TREASURY, FEES})
REACHED_S = 5.0
FRESH_S = 2.0
_STATUS = {
    "insufficient_funds": 402, "exists_with_different_fields": 409, "not_pending": 409, "dispute_closed": 409,
    "supply_cap": 409, "unknown_transfer": 404, "unknown_dispute": 404, "too_many_pending": 429,
    "too_many_disputes": 429,
}  # fmt: skip
_REMEDIES = {
    "insufficient_funds": "pay less, or ask somebody for CPT",
    "exists_with_different_fields": "use another Idempotency-Key for another transfer",
}
_canonical = msgspec.json.Encoder(order="deterministic").encode


def new_id(letter: str, owner: UserId, key: str) -> str:
    """An id that is always the same for the same owner and Idempotency-Key, random without one."""
    raw = hashlib.sha256(f"{letter}|{owner}|{key}".encode()).digest()[:ID_BYTES] if key else os.urandom(ID_BYTES)
    return letter + base64.b32encode(raw).decode().lower()


async def user_of(core: Core, called: str, field: str) -> UserId:
    """The user with this id or name. Raises Failed."""
    for fresh in (False, True):
        if fresh:
            # It may have come a moment ago, at another control plane.
            await core.access.reached(await core.log.last(ACCOUNTS_SUBJECT), FRESH_S)
        known = core.access.state.users.get(called)
        if known is not None and known.state != "erased":
            return called
        if (row := await core.people.people.found(called)) is not None and row.user in core.access.state.users:
            return row.user
    raise bad_field(
        field, f"there is no user {called[:100]!r}", "use the user's name, or the id that `hivectl me` shows"
    )


async def account_of(core: Core, called: str, field: str) -> AccountId:
    """An account of the hive's own by its name, or a user's. Raises Failed."""
    return called if called in OWN_ACCOUNTS else user_account(await user_of(core, called, field))


async def postings_of(
    core: Core, source: AccountId, legs: Iterable[Leg], *, own: bool, alone: bool = False
) -> list[Posting]:
    """From one account to these; with `own`, to the hive's own, too. `alone`: its field is `to`. Raises Failed."""
    found: list[Posting] = []
    for at, leg in enumerate(legs):
        field = "to" if alone else f"legs[{at}].to"
        payee = await account_of(core, leg.to, field) if own else user_account(await user_of(core, leg.to, field))
        found.append(Posting(source, payee, leg.amount))
    return found


def transfer_of(
    core: Core,
    caller: Caller,
    transfer: TransferId,
    kind: TransferKind,
    postings: list[Posting],
    memo: str,
    cites: str,
    pending_ms: int = 0,
) -> Transfer:
    """The command, its memo sealed and its body known by a keyed digest."""
    digest = core.money.digest_of(_canonical((kind, postings, memo, cites, pending_ms)))
    sealed = core.keys.seal(caller.user, memo.encode()) if memo else None
    return Transfer(transfer, kind, postings, digest, sealed, cites, pending_ms)


async def ask(core: Core, caller: Caller, command: Command) -> tuple[Accepted, int]:
    """Have the ledger's writer do it; the outcome, and the position that says so. Raises Failed when it is refused."""
    answer = await core.money.ask.ask([command], caller.by, cause=caller.via, trace=secrets.token_hex(8))
    outcome = answer.outcomes[0]
    if isinstance(outcome, RefusedAnswer):
        raise refused_as(outcome)
    await core.money.view.reached(answer.position, REACHED_S)
    return outcome, answer.position


def refused_as(outcome: RefusedAnswer) -> Failed:
    """The problem that a refusal of the ledger means."""
    field = "Idempotency-Key" if outcome.code == "exists_with_different_fields" else outcome.field
    return Failed(
        _STATUS.get(outcome.code, 422), outcome.code.replace("_", "-"), outcome.detail, field=field,
        remedy=_REMEDIES.get(outcome.code, ""),
    )  # fmt: skip


def opened(core: Core, sealed: Sealed | None) -> str:
    """What was typed; "" when nothing was, or it was erased."""
    if sealed is None:
        return ""
    try:
        return core.keys.open(sealed).decode()
    except (KeyDestroyed, KeyAway):
        return ""


def digest_under(key: bytes) -> Any:
    """A keyed digest of bodies: the log holds it, and nobody can guess at what was typed with it."""

    def digest(body: bytes) -> Digest:
        return hashlib.blake2b(body, key=key, digest_size=32).hexdigest()

    return digest


def no_transfer(id: str) -> Failed:
    """There is none, or it is not the caller's to see."""
    return not_found("transfer", id, "list yours with GET /v1/ledger/transfers")
