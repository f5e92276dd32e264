"""NATS JWTs: what an operator, an account and a user may do, signed with their ed25519 nkeys.

A server in operator mode knows only the operator's key. It believes an account's JWT that the operator signed, and a
user's that the account, or one of the account's signing keys, signed; who connects proves to have the user's seed. So
a user is let in without the server having heard of it before.
"""

import base64
import binascii
import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import msgspec

from infra.nkey import Signer

HEADER = b'{"typ":"JWT","alg":"ed25519-nkey"}'
VERSION = 2
UNLIMITED = -1
PARTS = 3
JWT_CHARS_MAX = 8192
"""Of a user's JWT: ours have 700."""
STORE_LIMITS = ("mem_storage", "disk_storage", "streams", "consumer")

_encode = msgspec.json.Encoder().encode


class BadJwt(ValueError):
    """Not a user's JWT; the text says why."""


class Export(msgspec.Struct, frozen=True, gc=False):
    """Subjects that an account lets others use: to ask (`service`), or to listen to (`stream`). `answer_s`: how long a
    service may take for its answer before it is dropped, in seconds; 0 is the server's default of two minutes.
    """

    subject: str
    type: Literal["service", "stream"]
    answer_s: int = 0


class Template(msgspec.Struct, frozen=True, gc=False):
    """What every user signed by a scoped key may do. In subjects, `{{name()}}` and `{{tag(x)}}` stand for the JWT's own.
    `subs`: subscriptions of a connection; `payload`: bytes of a message.
    """

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]
    subs: int
    payload: int


class Account(msgspec.Struct, frozen=True, gc=False):
    """An account: users who see each other's subjects, and nobody else's but by `exports` and imports.

    `store`: may have streams. `imports`: what it uses of another account (that one's public key, its exports).
    `scoped`: signing keys (public) whose users get the template's permissions. `revocations`: JWTs of this user (public
    key, `*`: of all) that were issued at this unix second or earlier are void.
    """

    public_key: str
    name: str
    connections: int = UNLIMITED
    store: bool = False
    exports: tuple[Export, ...] = ()
    imports: tuple[tuple[str, Export], ...] = ()
    scoped: tuple[tuple[str, Template], ...] = ()
    revocations: Mapping[str, int] = {}


class UserClaims(msgspec.Struct, frozen=True, gc=False):
    """What a user's JWT says: whose it is (`sub`, a public key), the user's name, and unix seconds; `exp` 0: for ever."""

    sub: str
    name: str = ""
    iat: int = 0
    exp: int = 0


_user_of = msgspec.json.Decoder(UserClaims).decode


def operator_jwt(operator: Signer, name: str, system_account: str) -> str:
    """The operator's JWT, by itself. `system_account`: the public key of the one that manages servers.

    The same text each time: a server takes no other while it runs.
    """
    body = {"type": "operator", "version": VERSION, "system_account": system_account}
    return _signed(operator, {"sub": operator.public_key, "name": name, "nats": body}, 0)


def account_jwt(operator: Signer, account: Account, now_s: int) -> str:
    """An account's JWT, by the operator. `now_s`: when it is issued; an equal text changes nothing on a server."""
    limits: dict[str, Any] = dict.fromkeys(("subs", "data", "payload", "imports", "exports"), UNLIMITED)
    limits |= {"wildcards": True, "conn": account.connections, "leaf": 0}
    limits |= dict.fromkeys(STORE_LIMITS, UNLIMITED if account.store else 0)
    body: dict[str, Any] = {"type": "account", "version": VERSION, "limits": limits}
    body["exports"] = [_export(export) for export in account.exports]
    body["imports"] = [
        {"name": export.subject, "account": owner, "subject": export.subject, "type": export.type}
        for owner, export in account.imports
    ]
    body["signing_keys"] = [_scope(key, template) for key, template in account.scoped]
    body["revocations"] = dict(account.revocations)
    return _signed(operator, {"sub": account.public_key, "name": account.name, "nats": body}, now_s)


def _export(export: Export) -> dict[str, Any]:
    found: dict[str, Any] = {"name": export.subject, "subject": export.subject, "type": export.type}
    if export.answer_s:
        found |= {"response_type": "Singleton", "response_threshold": export.answer_s * 1_000_000_000}
    return found


def _scope(key: str, template: Template) -> dict[str, Any]:
    allowed = {
        "pub": {"allow": list(template.publish)},
        "sub": {"allow": list(template.subscribe)},
        "subs": template.subs,
        "data": UNLIMITED,
        "payload": template.payload,
        # Not MQTT and not a leaf node: those translate subjects before they are checked.
        "allowed_connection_types": ["STANDARD", "WEBSOCKET"],
    }
    return {"kind": "user_scope", "key": key, "role": "worker", "template": allowed}


def user_jwt(account: Signer, user: str, name: str, now_s: int, expires_at_s: int) -> str:
    """The JWT of a user (public key) who may do everything in the account that signs it, until `expires_at_s`."""
    body = {"type": "user", "version": VERSION, **dict.fromkeys(("subs", "data", "payload"), UNLIMITED)}
    return _signed(account, {"sub": user, "name": name, "exp": expires_at_s, "nats": body}, now_s)


def scoped_user_jwt(
    key: Signer, account: str, user: str, name: str, tags: Iterable[str], now_s: int, expires_at_s: int
) -> str:
    """The JWT of a user of `account` (both public keys), by one of its scoped keys: it may do what the key's template
    says of `name` and `tags` (`key:value`), until `expires_at_s`. These stand in subjects, so the caller checks them.
    """
    body = {"type": "user", "version": VERSION, "issuer_account": account, "tags": list(tags)}
    return _signed(key, {"sub": user, "name": name, "exp": expires_at_s, "nats": body}, now_s)


def read_user(jwt: str) -> UserClaims:
    """What a user's JWT says; its signature is not looked at. Raises BadJwt."""
    parts = jwt.strip().split(".")
    if len(parts) != PARTS or len(jwt) > JWT_CHARS_MAX:
        raise BadJwt(f"not a JWT: {len(parts)} parts in {len(jwt)} characters")
    try:
        return _user_of(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (binascii.Error, ValueError, msgspec.DecodeError) as error:
        raise BadJwt(f"not a user's JWT: {error}") from None


def _signed(signer: Signer, claims: dict[str, Any], now_s: int) -> str:
    claims |= {"iss": signer.public_key, "iat": now_s}
    claims["jti"] = base64.b32encode(hashlib.sha256(_encode(claims)).digest()).rstrip(b"=").decode()
    text = f"{_base64(HEADER)}.{_base64(_encode(claims))}"
    return f"{text}.{_base64(signer.sign(text.encode()))}"


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
