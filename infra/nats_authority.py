"""Who may do what on the embedded nats-server: the keys that sign, and the JWTs they sign.

Three accounts that share nothing but what PLATFORM exports here. A worker's reply subjects are not permission-checked by
NATS, so an account that holds streams must hold no worker: WORKERS has no JetStream, and PLATFORM lets it reach only
the subjects below. A service's answer may take `ANSWER_S`, longer than the longest poll, or it is dropped silently.

A worker's JWT is short-lived and signed by a key that can sign nothing but workers. Shutting a worker out before its JWT
ends is an entry in the account's own JWT; once no JWT of that key can be valid any more, the entry goes.
"""

import re
import time
from collections.abc import Callable

import msgspec

from events.protocol import POLL_S_MAX
from infra import nats_jwt
from infra.credential import Credential
from infra.folder import Folder, write_atomic
from infra.nats_jwt import Account, Export, Template
from infra.nats_process import NatsServerError
from infra.nkey import Kind, Signer, check_public, new_seed, new_user_seed
from infra.settings import POOL_NAME

WORKER_JWT_S = 24 * 3600
"""How long a worker's credential is good for."""
PLATFORM_JWT_S = 24 * 3600
"""How long one connection of the platform may last; the server ends it then, and the link comes back with a new JWT."""
ANSWER_S = POLL_S_MAX + 10
WORKER_ID = re.compile(r"w[a-z2-7]{12}")
WORKER_CONNECTIONS_MAX = 15_000
"""Fewer than the server's own limit: workers never take the platform's place."""
WORKER_SUBSCRIPTIONS_MAX = 32
WORKER_PAYLOAD_BYTES_MAX = 896 * 1024
"""An agent sends 768 KiB of output at most, and what goes around it."""
REVOKED_AHEAD_S = 300
"""A revocation also voids what a clock that was so much ahead has issued."""
REVOCATIONS_MAX = 5000
"""Shut out within a day, each by its own entry: so many make an account's JWT of half a message."""
EVERYONE = "*"
EXPORTS = (
    Export("req.*.*.*", "service", ANSWER_S),
    Export("hb.*.*", "service"),
    Export("tok.*.*.*", "service"),
    Export("push.*.*.>", "stream"),
)
_WORKER, _POOL = "{{name()}}", "{{tag(pool)}}"
WORKER_TEMPLATE = Template(
    publish=(f"req.{_POOL}.{_WORKER}.*", f"hb.{_POOL}.{_WORKER}", f"tok.{_POOL}.{_WORKER}.*"),
    subscribe=(f"_INBOX_{_WORKER}.>", f"push.{_POOL}.{_WORKER}.>", f"push.{_POOL}.all.>"),
    subs=WORKER_SUBSCRIPTIONS_MAX,
    payload=WORKER_PAYLOAD_BYTES_MAX,
)

_encode = msgspec.json.Encoder().encode
_revocations_of = msgspec.json.Decoder(dict[str, int]).decode


def check_worker(worker_id: str, public_key: str, pool: str) -> None:
    """Raise ValueError unless all three can stand in a JWT: the first and the last become parts of subjects."""
    if not WORKER_ID.fullmatch(worker_id):
        raise ValueError(f"not a worker's id: {worker_id!r}; it is w and 12 of a-z and 2-7")
    if not POOL_NAME.fullmatch(pool):
        raise ValueError(f"not a pool's name: {pool!r}; it is 1 to 32 of a-z, 0-9, _ and -")
    check_public(public_key)


class Authority:
    """The signing keys of a data folder (made the first time), and who was shut out. `clock`: unix seconds.

    Raises NatsServerError when what it finds is damaged. The platform's own users have keys that live as long as this object and are nowhere written down.
    """

    def __init__(self, folder: Folder, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._operator = _signer(folder, "nats_operator.seed", "operator")
        self._system = _signer(folder, "nats_account_sys.seed", "account")
        self._platform = _signer(folder, "nats_account_platform.seed", "account")
        self._workers = _signer(folder, "nats_account_workers.seed", "account")
        self._worker_key = _signer(folder, "nats_worker_signing.seed", "account")
        seed = new_user_seed()
        self._user = Signer(seed)
        self._file = folder.path("nats", "revocations.json")
        self._revoked = self._load()
        self.platform = Credential(seed, self.platform_jwt)
        """The platform's own user."""
        self.system = Credential(seed, self.sys_jwt)
        """The user that manages the server."""

    @property
    def operator_key(self) -> str:
        """The operator's public key."""
        return self._operator.public_key

    @property
    def system_account(self) -> str:
        """Public key of SYS."""
        return self._system.public_key

    @property
    def platform_account(self) -> str:
        """Public key of PLATFORM, which is the name of its folder of streams."""
        return self._platform.public_key

    @property
    def workers_account(self) -> str:
        """Public key of WORKERS."""
        return self._workers.public_key

    # JWTs

    def operator_jwt(self) -> str:
        """The operator's own."""
        return nats_jwt.operator_jwt(self._operator, "hive", self.system_account)

    def accounts(self) -> dict[str, str]:
        """The JWT of each account, by its public key."""
        platform = Account(self.platform_account, "PLATFORM", store=True, exports=EXPORTS)
        return {
            self.system_account: nats_jwt.account_jwt(self._operator, Account(self.system_account, "SYS"), 0),
            self.platform_account: nats_jwt.account_jwt(self._operator, platform, 0),
            self.workers_account: self.workers_account_jwt(),
        }

    def workers_account_jwt(self) -> str:
        """WORKERS' own, with everybody who was shut out."""
        self._prune()
        account = Account(
            self.workers_account,
            "WORKERS",
            connections=WORKER_CONNECTIONS_MAX,
            imports=tuple((self.platform_account, export) for export in EXPORTS),
            scoped=((self._worker_key.public_key, WORKER_TEMPLATE),),
            revocations=self._revoked,
        )
        return nats_jwt.account_jwt(self._operator, account, self._now())

    def worker_jwt(self, worker_id: str, public_key: str, pool: str, expires_at_s: int) -> str:
        """A worker's: it may use its own subjects in its pool, until `expires_at_s`, WORKER_JWT_S from now at most.

        Whether this key may come in is for the caller to know: that it was revoked is only what voids its older JWTs.
        Raises ValueError for what cannot stand in a JWT.
        """
        check_worker(worker_id, public_key, pool)
        now = self._now()
        if expires_at_s > now + WORKER_JWT_S:
            raise ValueError(f"a worker's JWT is good for {WORKER_JWT_S} s at most: revocations are kept so long")
        issued_at = max(now, *(self._revoked.get(key, 0) + 1 for key in (public_key, EVERYONE)))
        tags = (f"pool:{pool}",)
        return nats_jwt.scoped_user_jwt(
            self._worker_key, self.workers_account, public_key, worker_id, tags, issued_at, expires_at_s
        )

    def platform_jwt(self) -> str:
        """The platform's own user's, made now."""
        return self._own(self._platform, "platform")

    def sys_jwt(self) -> str:
        """That of the user in SYS, made now."""
        return self._own(self._system, "system")

    def _own(self, account: Signer, name: str) -> str:
        now = self._now()
        return nats_jwt.user_jwt(account, self._user.public_key, name, now, now + PLATFORM_JWT_S)

    # Shutting out

    def revoke(self, public_key: str) -> None:
        """Void every JWT that this user has, on disk by when this returns; the server must be told. Raises BadKey."""
        check_public(public_key)
        self._prune()
        at = self._now() + REVOKED_AHEAD_S
        if len(self._revoked) >= REVOCATIONS_MAX:
            # Everybody's JWT is void then, and who may stay gets a new one.
            self._revoked = {EVERYONE: at}
        self._revoked[public_key] = at
        write_atomic(self._file, _encode(self._revoked))

    def _prune(self) -> None:
        """Forget what no JWT can be affected by any more."""
        since = self._now() - WORKER_JWT_S
        self._revoked = {key: at for key, at in self._revoked.items() if at >= since}

    def _load(self) -> dict[str, int]:
        try:
            return _revocations_of(self._file.read_bytes())
        except FileNotFoundError:
            return {}
        except msgspec.DecodeError as error:
            raise NatsServerError(
                f"{self._file} is damaged ({error}); restore it, or delete it and shut out again whom you must"
            ) from None

    def _now(self) -> int:
        return int(self._clock())


def _signer(folder: Folder, name: str, kind: Kind) -> Signer:
    return Signer(folder.secret(name, lambda: new_seed(kind).encode()).decode())
