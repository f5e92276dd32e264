"""The accounts' rules: given these events, when this command, then these events."""

from typing import Any

import pytest

from events.account import (
    EnrolmentIssued,
    EnrolmentRevoked,
    InviteIssued,
    KeyExpirySet,
    KeyIssued,
    KeyRevoked,
    SecretRemoved,
    SecretSet,
    UserActed,
    UserErased,
    UserRegistered,
    UserResumed,
    UserRolesSet,
    UserSuspended,
    WorkerBanned,
    WorkerEnrolled,
    WorkerForgotten,
    WorkerRekeyed,
)
from events.base import Sealed
from projections.access import SHUT_OUT_MS, Access, apply
from services.accounts.commands import (
    Administer,
    BanWorker,
    Enrol,
    Erase,
    ForgetWorker,
    IssueEnrolment,
    IssueKey,
    Register,
    RekeyWorker,
    RemoveSecret,
    RevokeKey,
    SetRoles,
    SetSecret,
    Stand,
)
from services.accounts.model import KEYS_MAX, SECRETS_MAX, decide
from services.hosting import Refused

NOW = 1_790_000_000_000
NAME = Sealed("k1", b"name")
ADMIN = UserRegistered("uadmin", ["admin"])
USER = UserRegistered("u1", ["user"])


def issued(key: str = "k1", user: str = "u1", **more: Any) -> KeyIssued:
    return KeyIssued(key, user, f"digest-{key}", "hive_abcd", NAME, **more)


def issue(key: str = "k1", user: str = "u1", **more: Any) -> IssueKey:
    return IssueKey(key, user, f"digest-{key}", "hive_abcd", NAME, **more)


def token(uses: int = 1, expires_at: int = NOW + 1000) -> EnrolmentIssued:
    return EnrolmentIssued("e1", "u1", "digest-e1", "default", uses, expires_at)


def enrolled(worker: str = "w1", owner: str = "u1", **more: Any) -> WorkerEnrolled:
    return WorkerEnrolled(worker, owner, f"U-{worker}", "default", **more)


def given(*events: Any, at: int = NOW - 1000) -> Access:
    state = Access()
    for event in events:
        assert apply(state, event, at)
    return state


def then(state: Access, command: Any, now: int = NOW) -> list[Any]:
    return [*decide(state, command, now)]


def refused(state: Access, command: Any, now: int = NOW) -> str:
    with pytest.raises(Refused) as caught:
        decide(state, command, now)
    return caught.value.code


def test_a_user_is_registered_once() -> None:
    assert then(given(), Register("u1", ["user"])) == [USER]
    assert then(given(USER), Register("u1", ["user"])) == []
    assert refused(given(USER), Register("u1", ["admin"])) == "exists"
    assert refused(given(USER, UserErased("u1")), Register("u1", ["user"])) == "exists"


@pytest.mark.parametrize("roles", [[], ["king"], ["user", "user"]])
def test_roles_are_known_ones_each_once(roles: list[Any]) -> None:
    assert refused(given(), Register("u1", roles)) == "bad_roles"
    assert refused(given(USER), SetRoles("u1", roles)) == "bad_roles"


def test_an_invitation_gives_its_roles_as_often_as_it_says() -> None:
    invite = InviteIssued("i1", "uadmin", "digest-i", ["owner"], 1, NOW + 1000)
    registered = UserRegistered("u2", ["owner"], "i1")
    assert then(given(ADMIN, invite), Register("u2", invite="digest-i")) == [registered]
    assert refused(given(ADMIN, invite, registered), Register("u3", invite="digest-i")) == "bad_invite"
    assert then(given(ADMIN, invite, registered), Register("u2", invite="digest-i")) == []
    assert refused(given(ADMIN, invite), Register("u2", invite="digest-i"), NOW + 1000) == "bad_invite"
    assert refused(given(ADMIN), Register("u2", invite="digest-i")) == "bad_invite"


def test_the_last_admin_stays() -> None:
    assert refused(given(ADMIN), SetRoles("uadmin", ["user"])) == "last_admin"
    assert refused(given(ADMIN), Stand("uadmin", "suspended")) == "last_admin"
    assert refused(given(ADMIN), Erase("uadmin")) == "last_admin"
    second = UserRegistered("u2", ["admin"])
    assert then(given(ADMIN, second), Erase("uadmin")) == [UserErased("uadmin")]
    assert refused(given(ADMIN, second, UserSuspended("u2")), Erase("uadmin")) == "last_admin"
    assert then(given(ADMIN, second, UserSuspended("u2"), UserResumed("u2")), Erase("uadmin"))
    assert refused(given(ADMIN, second, UserRolesSet("u2", ["user"])), Erase("uadmin")) == "last_admin"


def test_a_key_may_do_no_more_than_its_user() -> None:
    assert then(given(USER), issue()) == [issued()]
    assert then(given(USER, issued()), issue()) == []
    assert refused(given(USER), issue(role="admin")) == "bad_role"
    assert refused(given(USER), issue(scopes=["users:all"])) == "bad_scopes"
    assert refused(given(USER), issue(user="nobody")) == "no_user"
    assert refused(given(USER, UserSuspended("u1")), issue()) == "suspended"
    assert refused(given(USER), issue(expires_at=NOW)) == "bad_expiry"


def test_keys_of_a_user_are_bounded_and_revoked_ones_do_not_count() -> None:
    state = given(USER, *(issued(f"k{n}") for n in range(KEYS_MAX)))
    assert refused(state, issue("another")) == "too_many"
    apply(state, KeyRevoked("k0"), NOW)
    assert then(state, issue("another"))


def test_a_rotated_key_ends_after_the_grace() -> None:
    command = issue("k2", replaces="k1", grace_until=NOW + 500)
    assert then(given(USER, issued()), command) == [issued("k2", replaces="k1"), KeyExpirySet("k1", NOW + 500)]
    soon = given(USER, issued(expires_at=NOW + 100))
    assert then(soon, command)[1] == KeyExpirySet("k1", NOW + 100)
    assert refused(given(USER, issued(), KeyRevoked("k1")), command) == "no_key"
    assert refused(given(USER, ADMIN, issued(user="uadmin")), command) == "no_key"


def test_what_opens_and_what_does_not() -> None:
    state = given(USER, issued(expires_at=NOW + 10))
    assert state.key("digest-k1", NOW + 9) is not None
    assert state.key("digest-k1", NOW + 10) is None
    assert state.key("digest-other", NOW) is None
    assert given(USER, issued(), KeyRevoked("k1")).key("digest-k1", NOW) is None
    assert given(USER, issued(), UserSuspended("u1")).key("digest-k1", NOW) is None
    assert given(USER, issued(), UserSuspended("u1"), UserResumed("u1")).key("digest-k1", NOW) is not None
    assert given(USER, issued(), UserErased("u1")).key("digest-k1", NOW) is None


def test_revoking_is_done_once() -> None:
    assert then(given(USER, issued()), RevokeKey("k1")) == [KeyRevoked("k1")]
    assert then(given(USER, issued(), KeyRevoked("k1")), RevokeKey("k1")) == []
    assert refused(given(USER), RevokeKey("k1")) == "no_key"


def test_a_token_brings_in_as_many_workers_as_it_says() -> None:
    join = Enrol("w1", "U-w1", "other", "digest-e1")
    by_token = enrolled(enrolment="e1")
    assert then(given(USER, token()), join) == [by_token]
    assert then(given(USER, token(), by_token), join) == [], "the same machine may ask twice"
    assert refused(given(USER, token(), by_token), Enrol("w2", "U-w2", "", "digest-e1")) == "bad_token"
    assert then(given(USER, token(0), by_token), Enrol("w2", "U-w2", "", "digest-e1"))
    assert refused(given(USER, token()), join, NOW + 1000) == "bad_token"
    assert refused(given(USER, token(), EnrolmentRevoked("e1")), join) == "bad_token"
    assert refused(given(USER, token(), UserSuspended("u1")), join) == "suspended"
    assert refused(given(USER), IssueEnrolment("e1", "u1", "d", "default", -1, NOW + 1)) == "bad_uses"


def test_one_key_is_one_worker() -> None:
    other = WorkerEnrolled("w2", "u1", "U-w1", "default")
    assert refused(given(USER, token(), other), Enrol("w1", "U-w1", "", "digest-e1")) == "exists"
    assert refused(given(USER, ADMIN, enrolled()), Enrol("w1", "U-w1", "", owner="uadmin")) == "exists"


def test_a_banned_worker_does_not_come_back_and_a_forgotten_one_may() -> None:
    join = Enrol("w1", "U-w1", "", "digest-e1")
    banned = given(USER, token(0), enrolled(), WorkerBanned("w1"))
    assert refused(banned, join) == "banned"
    assert refused(banned, RekeyWorker("w1", "U-w1", "U-new")) == "banned"
    assert then(banned, BanWorker("w1")) == []
    assert then(banned, ForgetWorker("w1")) == [WorkerForgotten("w1")]
    assert then(given(USER, token(0), enrolled(), WorkerForgotten("w1")), join)


def test_what_was_shut_out_is_named_until_no_credential_of_it_can_live() -> None:
    state = given(USER, token(0), enrolled(), enrolled("w2"), enrolled("w3"))
    apply(state, WorkerBanned("w1"), NOW)
    apply(state, WorkerRekeyed("w2", "U-new"), NOW + 1)
    assert state.shut_out == {"U-w1": NOW, "U-w2": NOW + 1}
    assert refused(state, RekeyWorker("w3", "U-w3", "U-w2")) == "old_key"
    apply(state, UserErased("u1"), NOW + SHUT_OUT_MS + 2)
    assert state.shut_out == dict.fromkeys(("U-w1", "U-new", "U-w3"), NOW + SHUT_OUT_MS + 2)


def test_a_secret_has_one_user_and_one_value_at_a_time() -> None:
    state = given(USER, ADMIN)
    assert then(state, SetSecret("s1", "u1", "v1")) == [SecretSet("s1", "u1", "v1")]
    state = given(USER, ADMIN, SecretSet("s1", "u1", "v1"))
    assert then(state, SetSecret("s1", "u1", "v1")) == []
    assert then(state, SetSecret("s1", "u1", "v2")) == [SecretSet("s1", "u1", "v2")]
    assert refused(state, SetSecret("s1", "uadmin", "v2")) == refused(state, RemoveSecret("s1", "uadmin")) == "exists"
    assert then(state, RemoveSecret("s1", "u1")) == [SecretRemoved("s1", "u1")]
    assert then(given(USER), RemoveSecret("s1", "u1")) == []


def test_secrets_of_a_user_are_bounded_and_go_with_it() -> None:
    state = given(USER, *(SecretSet(f"s{number}", "u1", "v") for number in range(SECRETS_MAX)))
    assert refused(state, SetSecret("more", "u1", "v")) == "too_many"
    assert then(state, SetSecret("s0", "u1", "w"))
    for event in (SecretRemoved("s0", "u1"), UserErased("u1")):
        assert apply(state, event, NOW)
    assert not state.secrets
    assert refused(state, SetSecret("s1", "u1", "v")) == "no_user"


def test_what_an_admin_did_is_written_down_if_it_changed_anything() -> None:
    acted = UserActed("uadmin", "key.revoke", "k1")
    state = given(ADMIN, USER, issued())
    assert then(state, Administer(RevokeKey("k1"), acted)) == [KeyRevoked("k1"), acted]
    assert then(given(USER, issued(), KeyRevoked("k1")), Administer(RevokeKey("k1"), acted)) == []
    assert refused(state, Administer(RevokeKey("k9"), acted)) == "no_key"
