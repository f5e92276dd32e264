"""One-time links, and the mail that carries them: to set a password, and to show that an address is one's own.

A link's text is random, known here by its digest, good once and for a while; a new one makes those before it void. An
admin may give one out by hand, so a hive that sends no mail can do without.
"""

import asyncio
import hashlib
import hmac
import re
import secrets
import time
import unicodedata
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from events.base import Sealed, UserId
from infra.database import DatabaseAway
from infra.identity_store import IdentityStore, LinkKind, MailTaken
from infra.mail import Mailer, MailFailed
from infra.sealing import KeyAway, KeyDestroyed
from services.accounts.throttle import Throttle
from services.hosting import Refused

LINK_MS: dict[LinkKind, int] = {"reset": 24 * 3_600_000, "verify": 7 * 86_400_000}
MAIL_CHARS_MAX = 254
MAILS_MAX = 3
"""Mails to one address within the throttle's window."""
SENDING_MAX = 100
SECRET_BYTES = 32
_MAIL = re.compile(r"[^@\s<>()\[\],;:\\\"]{1,64}@[^@\s<>()\[\],;:\\\"]+\.[^@\s<>()\[\],;:\\\".]+\Z")

_log = structlog.get_logger()


def check_mail(mail: str) -> None:
    """Raise Refused unless `mail` is "" or has the form of an address that mail can be sent to."""
    if mail and not (len(mail) <= MAIL_CHARS_MAX and mail.isprintable() and _MAIL.match(mail)):
        raise Refused("bad_mail", "email", "this is no e-mail address; write it like ada@example.org")


class Mails:
    """Links and mails. Without a `mailer` nothing is sent. `key`: 32 secret bytes that digest addresses."""

    def __init__(
        self,
        store: IdentityStore,
        key: bytes,
        open_sealed: Callable[[Sealed], bytes],
        mailer: Mailer | None = None,
        public_url: str = "",
    ) -> None:
        self._store, self._key, self._open, self._mailer, self._url = store, key, open_sealed, mailer, public_url
        self._throttle = Throttle(MAILS_MAX)
        self._sending: set[asyncio.Task[None]] = set()

    @property
    def sends(self) -> bool:
        """Whether this hive sends mail."""
        return self._mailer is not None

    def digest_of(self, mail: str) -> bytes:
        """What an address is found by, however it is written."""
        folded = unicodedata.normalize("NFKC", mail).casefold()
        return hmac.digest(self._key, b"mail." + folded.encode(), "sha256")

    # Links

    async def new_link(self, user: UserId, kind: LinkKind) -> tuple[str, int]:
        """A new link's text, and until when (ms) it is good. Raises Refused, DatabaseAway."""
        if await self._store.user(user) is None:
            raise Refused("no_user", "user", f"there is no user {user!r}")
        token = f"hivl_{secrets.token_urlsafe(SECRET_BYTES)}"
        expires = _now() + LINK_MS[kind]
        await self._store.add_link(_digest(token), user, kind, expires)
        return token, expires

    async def owner_of(self, token: str, kind: LinkKind) -> UserId:
        """Whose link it is. Raises Refused when it is good for nothing."""
        user = await self._store.link(_digest(token), kind, _now())
        if not user:
            raise _bad_link()
        return user

    async def use(self, token: str, kind: LinkKind) -> None:
        """Use it up. Raises Refused when it is good for nothing, or just was used."""
        if not await self._store.use_link(_digest(token), kind, _now()):
            raise _bad_link()

    async def verify(self, token: str) -> UserId:
        """The address is the user's who has this link. Raises Refused."""
        user = await self.owner_of(token, "verify")
        try:
            await self._store.set_verified(user)
        except MailTaken:
            detail = "this address is another user's; ask an admin if it should not be"
            raise Refused("mail_taken", "token", detail) from None
        await self.use(token, "verify")
        return user

    # Mail

    def send_verification(self, user: UserId, mail: str) -> None:
        """Send a link that shows that the address is the user's, soon; nothing where no mail is sent."""
        self._soon(self._verification(user, mail))

    def send_reset(self, mail: str) -> None:
        """Send a link that sets a password to the user whose address this is, if it is anybody's: nobody who asks can
        tell. Raises Refused where no mail is sent.
        """
        if self._mailer is None:
            raise Refused("no_mail", "", "this hive sends no mail; ask an admin for a link that sets a password")
        check_mail(mail)
        self._soon(self._reset(mail))

    async def _verification(self, user: UserId, mail: str) -> None:
        if self._may_send(mail):
            token, _ = await self.new_link(user, "verify")
            await self._send(mail, "Is this your address?", "verify-email", token, "that this address is yours")

    async def _reset(self, mail: str) -> None:
        row = await self._store.user_of_mail(self.digest_of(mail))
        if row is None or row.mail is None or not self._may_send(mail):
            return
        # To the address as its user wrote it, not as whoever asks did.
        known = self._open(row.mail).decode()
        token, _ = await self.new_link(row.user, "reset")
        await self._send(known, "Another password", "reset-password", token, "to set another password")

    def _may_send(self, mail: str) -> bool:
        name, now = self.digest_of(mail).hex(), time.monotonic()
        if self._throttle.wait_s(name, now):
            return False
        self._throttle.failed(name, now)
        return True

    async def _send(self, to: str, subject: str, command: str, token: str, what: str) -> None:
        assert self._mailer is not None
        at = f" --url {self._url}" if self._url else ""
        text = (
            f"Somebody, probably you, asked the hive{f' at {self._url}' if self._url else ''} {what}.\n\n"
            f"If it was you:\n\n    hivectl user {command}{at} {token}\n\nIf not, do nothing; the token is good once.\n"
        )
        await self._mailer.send(to, f"Hive: {subject}", text)

    def _soon(self, work: Coroutine[Any, Any, None]) -> None:
        if self._mailer is None or len(self._sending) >= SENDING_MAX:
            work.close()
            return
        task = asyncio.create_task(_logged(work))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def close(self) -> None:
        """Let what is being sent end, for a mail's time at most."""
        if self._sending:
            await asyncio.wait(self._sending)


async def _logged(work: Coroutine[Any, Any, None]) -> None:
    try:
        await work
    except (MailFailed, DatabaseAway, KeyAway, KeyDestroyed, Refused) as error:
        _log.warning("mail.not_sent", why=str(error))


def _bad_link() -> Refused:
    return Refused("bad_link", "token", "it is unknown, used, void or expired; ask for another")


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def _now() -> int:
    return time.time_ns() // 1_000_000
