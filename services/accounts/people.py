"""What people do about themselves: register, log in, change the password and the e-mail address, sign out, be erased.

Names, addresses and passwords lie in `IdentityStore`, who there is lies in the log. A registration keeps the name
first and then writes the fact; an erasure writes the fact first and then destroys key and row. `services.accounts.tidying`
finishes what a crash left between the two.
"""

import contextlib
import secrets
import time
from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Literal, TypeAlias

import msgspec

from events.account import Limits, Role
from events.base import Digest, UserId
from infra.database import DatabaseAway
from infra.identity_store import IdentityStore, NameTaken, UserRow
from infra.keyring import Keyring
from infra.passwords import Passwords, PasswordsBusy, WeakPassword
from infra.sealing import KeyAway, KeyDestroyed
from projections.access import UserState
from services.access import AccessView
from services.accounts.commands import Command, Erase, Register, Stand
from services.accounts.failures import Failures, Throttled
from services.accounts.humans import ACCOUNT_UNCHECKED_MAX, ADDRESS_UNCHECKED_MAX, Humans
from services.accounts.mails import Mails, check_mail
from services.accounts.names import BadName, canonical, check_name, fold, user_id
from services.accounts.service import AccountsClient
from services.accounts.sessions import Sessions, Tokens
from services.asking import RefusedAnswer
from services.hosting import Refused

Registration: TypeAlias = Literal["open", "invite", "closed"]
ROLES_OF_NEW: list[Role] = ["user"]
"""Of whoever registers without an invitation."""
REACHED_S = 5.0
ID_BYTES = 10


class Profile(msgspec.Struct, frozen=True, gc=False):
    """A user as it sees itself, and as admins see it. Times in ms. `mail`: "" for none; `has_password`: may log in."""

    user: UserId
    name: str
    mail: str
    verified: bool
    has_password: bool
    roles: list[Role]
    limits: Limits
    state: UserState
    since: int


@dataclass(frozen=True)
class PeopleParts:
    """What these flows stand on."""

    store: IdentityStore
    keyring: Keyring
    sessions: Sessions
    passwords: Passwords
    accounts: AccountsClient
    access: AccessView
    mails: Mails
    failures: Failures
    humans: Humans = field(default_factory=Humans)


class People:
    """The flows. Refusals are `Refused`; DatabaseAway and `asking.Unavailable` pass: try again, asking twice is safe."""

    def __init__(self, parts: PeopleParts, registration: Registration) -> None:
        self.parts, self._registration = parts, registration

    # Registering

    async def register(
        self, name: str, password: str, mail: str = "", invite: Digest = "", address: str = "", human: str = ""
    ) -> UserId:
        """Make a user, with an invitation (its digest) or where registration is open; the user's id.

        Asked again with the same name and password, it goes on where it was left. Raises Throttled, Refused.
        """
        self._check_open(invite)
        _check_name(name)
        check_mail(mail)
        await self.parts.failures.count(f"registration:{network_of(address)}")
        await self.parts.humans.confirm(human, address)
        await self._check_password(password, [name])
        user = await self._keep_name(name, password, address)
        try:
            await self.parts.keyring.make(user)
            if mail:
                await self._set_mail(user, mail)
            await self._ask(Register(user, [] if invite else ROLES_OF_NEW, invite), user)
        except Refused:
            await self._undo(user)
            raise
        if not await self.parts.store.set_registered(user):
            # It took so long that the name was freed meanwhile.
            await self._ask(Erase(user), user)
            raise Refused("too_slow", "", "this took too long and was undone; register again")
        if mail:
            self.parts.mails.send_verification(user, mail)
        return user

    async def _keep_name(self, name: str, password: str, address: str) -> UserId:
        """Keep the name for a new user, or find the one whose registration with this password was not finished."""
        user, hashed = user_id(secrets.token_bytes(ID_BYTES)), await self._hash(password)
        try:
            await self.parts.store.add_user(user, name, fold(name), hashed, _now())
        except NameTaken as error:
            row = await self.parts.store.user_named(fold(name))
            if row is None or row.registered or canonical(row.name) != canonical(name):
                raise Refused("name_taken", "name", str(error)) from None
            try:
                return (await self._prove(name, password, address)).user
            except Refused:
                raise Refused("name_taken", "name", str(error)) from None
        return user

    def _check_open(self, invite: Digest) -> None:
        access = self.parts.access.state
        if invite:
            known = access.invites.get(access.invite_of.get(invite, ""))
            if known is not None and not known.live(_now()):
                detail = "the invitation is used up, revoked or expired; ask for another"
                raise Refused("bad_invite", "invite", detail)
        elif self._registration == "closed":
            raise Refused("closed", "", "nobody may register here without an invitation; ask an admin for one")
        elif self._registration == "invite":
            raise Refused("closed", "invite", "an invitation is needed to register here; ask an admin for one")

    async def _undo(self, user: UserId) -> None:
        """Free the name, now or, when Postgres is away, later."""
        try:
            await self.parts.keyring.destroy(user)
            await self.parts.store.remove_users([user])
        except DatabaseAway:
            return

    # Coming in

    async def log_in(self, name: str, password: str, address: str = "", human: str = "") -> Tokens:
        """A new session; after some failures the answer to a check for humans is needed, too. Raises Throttled; Refused
        says the same for an unknown name and for a wrong password.
        """
        wrong, wrong_here = await self.parts.failures.check(*_counted(name, address))
        if wrong >= ACCOUNT_UNCHECKED_MAX or wrong_here >= ADDRESS_UNCHECKED_MAX:
            await self.parts.humans.confirm(human, address)
        row = await self._prove(name, password, address)
        access = self.parts.access.state
        user = access.users.get(row.user)
        if user is None or user.state == "erased":
            raise _wrong()
        if user.state == "suspended":
            raise Refused("suspended", "", "this user is suspended; ask an admin")
        if not row.registered:
            await self.parts.store.set_registered(row.user)
        if self.parts.passwords.outdated(row.password):
            await self.parts.store.set_password(row.user, await self._hash(password), row.password)
        return await self.parts.sessions.begin(row.user, access)

    async def _prove(self, name: str, password: str, address: str) -> UserRow:
        """The user with this name, whose password this is. Raises Throttled, Refused."""
        account, network = _counted(name, address)
        failures = self.parts.failures
        await failures.count(account, network)
        right = False
        try:
            row = await self.parts.store.user_named(fold(name))
            # Names that look like it are taken for others, but do not open what is its.
            known = row is not None and canonical(row.name) == canonical(name)
            right = await self._verify(row.password if row is not None and known else "", password)
        except BaseException:
            with contextlib.suppress(DatabaseAway):
                await failures.took_back(account, network)
            raise
        if row is None or not right:
            raise _wrong()
        await failures.succeeded(account)
        await failures.took_back(network)
        return row

    async def _prove_own(self, user: UserId, password: str, address: str) -> UserRow:
        """The user's row, if this is its password. Raises Throttled, Refused."""
        row = await self._row(user)
        if not row.password:
            raise Refused("no_password", "", "there is no password yet; ask an admin for a link that sets one")
        return await self._prove(row.name, password, address)

    # Passwords

    async def change_password(self, user: UserId, old: str, new: str, address: str = "") -> Tokens:
        """Set another password. Every session ends, and a new one begins for whoever did it."""
        row = await self._prove_own(user, old, address)
        await self._check_password(new, [row.name])
        await self._set_password(row, new, row.password)
        return await self.parts.sessions.begin(user, self.parts.access.state)

    async def request_reset(self, mail: str, address: str = "", human: str = "") -> None:
        """Have a link sent that sets a password to whoever has this address. Raises Refused."""
        await self.parts.humans.confirm(human, address)
        self.parts.mails.send_reset(mail)

    async def reset_password(self, token: str, password: str) -> UserId:
        """Set a password with a one-time link's token; every session ends. The user's id."""
        mails = self.parts.mails
        user = await mails.owner_of(token, "reset")
        row = await self._row(user)
        await self._check_password(password, [row.name])
        await mails.use(token, "reset")
        await self._set_password(row, password, None)
        await self.parts.failures.succeeded(_counted(row.name, "")[0])
        return user

    async def _set_password(self, row: UserRow, password: str, instead_of: str | None) -> None:
        if not await self.parts.store.set_password(row.user, await self._hash(password), instead_of):
            raise Refused("changed", "old", "the password was changed meanwhile; try again with the new one")
        await self.sign_out(row.user)

    async def sign_out(self, user: UserId) -> None:
        """End every session of the user, in every process."""
        await self._ask(Stand(user, "signed_out"), user)
        await self.parts.sessions.end_all(user)

    # Who somebody is

    async def profile(self, user: UserId) -> Profile:
        """A user's own data; one whom only the log knows has no name."""
        row = await self.parts.store.user(user)
        if row is None:
            known = self.parts.access.state.users.get(user)
            if known is None or known.state == "erased":
                raise _no_user(user)
            row = UserRow(user, "", "", None, b"", False, known.since, True)
        return self.profile_of(row)

    def profile_of(self, row: UserRow) -> Profile:
        """The row together with what the log knows."""
        known = self.parts.access.state.users.get(row.user)
        mail = ""
        if row.mail is not None:
            try:
                mail = self.parts.keyring.open(row.mail).decode()
            except (KeyAway, KeyDestroyed):
                mail = ""
        return Profile(
            row.user, row.name, mail, row.verified, bool(row.password), [*known.roles] if known else [],
            known.limits if known else Limits(), known.state if known else "erased", known.since if known else row.created,
        )  # fmt: skip

    async def found(self, name: str) -> UserRow | None:
        """The user with this very name."""
        row = await self.parts.store.user_named(fold(name))
        return row if row is not None and row.registered and canonical(row.name) == canonical(name) else None

    async def set_mail(self, user: UserId, mail: str, password: str, address: str = "") -> None:
        """Set the e-mail address ("": none); where mail can be sent, a link to verify it goes there. It may have the
        password set, so the password is needed.
        """
        check_mail(mail)
        await self._prove_own(user, password, address)
        await self._set_mail(user, mail)
        if mail:
            self.parts.mails.send_verification(user, mail)

    async def _set_mail(self, user: UserId, mail: str) -> None:
        sealed = self.parts.keyring.seal(user, mail.encode()) if mail else None
        await self.parts.store.set_mail(user, sealed, self.parts.mails.digest_of(mail) if mail else b"")

    async def erase(self, user: UserId, password: str, address: str = "") -> None:
        """Erase oneself, for good."""
        await self._prove_own(user, password, address)
        await self._ask(Erase(user), user)
        await self.finish_erasing(user)

    async def finish_erasing(self, user: UserId) -> bool:
        """Destroy what is kept of a user that the log says is erased; False when Postgres is away, and it is done later."""
        try:
            await self.parts.keyring.destroy(user)
            await self.parts.store.remove_users([user])
        except DatabaseAway:
            return False
        return True

    # What they have in common

    async def _row(self, user: UserId) -> UserRow:
        row = await self.parts.store.user(user)
        if row is None:
            raise _no_user(user)
        return row

    async def _ask(self, command: Command, user: UserId) -> None:
        """Have the accounts' writer do it, and see it here."""
        trace = secrets.token_hex(8)
        answer = await self.parts.accounts.ask([command], f"user:{user}", cause=f"http:{trace}", trace=trace)
        outcome = answer.outcomes[0]
        if isinstance(outcome, RefusedAnswer):
            raise Refused(outcome.code, outcome.field, outcome.detail)
        await self.parts.access.reached(answer.position, REACHED_S)

    async def _check_password(self, password: str, known: list[str]) -> None:
        try:
            await self.parts.passwords.check(password, known)
        except WeakPassword as error:
            raise Refused("weak_password", "password", str(error)) from None
        except PasswordsBusy as error:
            raise Throttled(1) from error

    async def _hash(self, password: str) -> str:
        try:
            return await self.parts.passwords.hash(password)
        except PasswordsBusy as error:
            raise Throttled(1) from error

    async def _verify(self, hashed: str, password: str) -> bool:
        try:
            return await self.parts.passwords.verify(hashed, password)
        except PasswordsBusy as error:
            raise Throttled(1) from error


def _no_user(user: UserId) -> Refused:
    return Refused("no_user", "user", f"there is no user {user[:100]!r}")


def _wrong() -> Refused:
    return Refused("wrong_login", "", "the name or the password is wrong")


def _check_name(name: str) -> None:
    try:
        check_name(name)
    except BadName as error:
        raise Refused("bad_name", "name", str(error)) from None


def _counted(name: str, address: str) -> tuple[str, str]:
    """What failures to log in are counted by."""
    return f"account:{canonical(name)}", f"address:{network_of(address)}"


def network_of(address: str) -> str:
    """Whom failures from an address are counted for: it, or in IPv6 the network of one customer."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address):
        return str(parsed.ipv4_mapped or ip_network((parsed, 64), strict=False))
    return str(parsed)


def _now() -> int:
    return time.time_ns() // 1_000_000
