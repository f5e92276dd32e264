"""Sessions without their store: what becomes of one when a refresh token comes, and what access tokens say. Throttles."""

import hashlib
from typing import Any

import jwt
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.database import Database
from infra.identity_store import IdentityStore, SessionRow
from projections.access import Access, User
from services.accounts.people import network_of
from services.accounts.sessions import (
    ACCESS_MS,
    GRACE_MS,
    REFRESH_MS,
    BadToken,
    Session,
    Sessions,
    judge,
    stands,
)
from services.accounts.throttle import COUNTS_MAX, WINDOW_S, Throttle

T0 = 1_800_000_000_000
KEY = bytes(range(32))
ROW = SessionRow("f1", "uada", b"now", b"", T0, T0, T0 + REFRESH_MS)


def sessions(key: bytes = KEY) -> Sessions:
    return Sessions(key, IdentityStore(Database("postgresql://nowhere.invalid/")))


def token(made: Sessions, now: int = T0, family: str = "f1") -> str:
    return made._tokens(msgspec.structs.replace(ROW, family=family), "", now).access


# What a refresh token does


def test_a_token_is_good_once_and_for_a_moment_again() -> None:
    first = judge(ROW, b"now", b"next", T0 + 5)
    assert (first.digest, first.before, first.ended) == (b"next", b"now", 0)
    assert first.expires == T0 + 5 + REFRESH_MS
    retried = judge(first, b"now", b"again", T0 + 5 + GRACE_MS)
    assert (retried.digest, retried.ended) == (b"again", 0)
    assert judge(retried, b"next", b"x", T0 + 6).ended, "the answer that was lost was found by somebody"
    assert judge(first, b"now", b"again", T0 + 6 + GRACE_MS).ended
    assert judge(first, b"stolen long ago", b"x", T0 + 6).ended


def test_what_is_over_stays_so() -> None:
    ended = msgspec.structs.replace(ROW, ended=T0 + 1)
    assert judge(ended, b"now", b"next", T0 + 2) == ended
    assert judge(ROW, b"now", b"next", ROW.expires) == ROW


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2 * GRACE_MS)), max_size=12))
def test_of_two_who_hold_tokens_of_one_session_only_one_goes_on(steps: list[tuple[int, int]]) -> None:
    """Whoever comes with a token that was given out before: within the grace it gets another, else all is over."""
    row, now, given_out = ROW, T0, [b"now"]
    for at, (which, wait) in enumerate(steps):
        now += wait
        used, fresh = given_out[-1 - which % len(given_out)], b"%d" % at
        was, row = row, judge(row, used, fresh, now)
        if was.ended:
            assert row == was
        elif used == was.digest or (used == was.before and now - was.rotated <= GRACE_MS):
            assert row.digest == fresh
            assert not row.ended
            given_out.append(fresh)
        else:
            assert row.ended == now


# Access tokens


def test_an_access_token_says_who_and_for_how_long() -> None:
    made = sessions()
    assert made.check(token(made), T0) == Session("uada", "f1", T0)
    assert sessions().check(token(made), T0 + ACCESS_MS - 1).user == "uada", "after a restart, too"
    with pytest.raises(BadToken, match="is over"):
        made.check(token(made), T0 + ACCESS_MS)


@pytest.mark.parametrize("tampered", ["", "x", "a.b.c", "\ud800", "é.é.é", "x" * 10_000])
def test_what_is_no_token_of_ours(tampered: str) -> None:
    with pytest.raises(BadToken, match="none of ours"):
        sessions().check(tampered, T0)


def test_tokens_of_other_keys_and_other_algorithms_open_nothing() -> None:
    made = sessions()
    claims: dict[str, Any] = {"sub": "uada", "sid": "f1", "iat": T0, "exp": T0 + ACCESS_MS}
    good = jwt.encode(claims, made._access_key, "HS256")
    assert made.check(good, T0)
    half = good.rsplit(".", 1)[0]
    bad = [
        token(sessions(bytes(32))), half + ".", jwt.encode(claims, "", "none"),
        jwt.encode(claims, KEY, "HS256"),
        jwt.encode({name: claims[name] for name in ("sub", "sid", "iat")}, made._access_key, "HS256"),
    ]  # fmt: skip
    for one in bad:
        with pytest.raises(BadToken, match="none of ours"):
            made.check(one, T0)


def test_an_ended_family_is_refused_at_once_and_no_other() -> None:
    made = sessions()
    made._end("f1")
    with pytest.raises(BadToken, match="was ended"):
        made.check(token(made), T0)
    assert made.check(token(made, family="f2"), T0).family == "f2"


def test_a_refresh_token_that_was_never_given_out_ends_nothing() -> None:
    made = sessions()
    real = made._new_refresh("f1")
    assert made._family_of(real) == "f1"
    for forged in (f"f1.{real.split('.')[1]}.x", "f1.a.b", "", "f1", real[:-1], "f2" + real[2:], real + "é"):
        with pytest.raises(BadToken, match="none of ours"):
            made._family_of(forged)


def test_csrf_tokens_belong_to_their_family() -> None:
    made = sessions()
    assert made.csrf("f1") == sessions().csrf("f1") != made.csrf("f2")
    assert made.csrf("f1") != sessions(bytes(32)).csrf("f1")


@pytest.mark.parametrize(
    ("user", "why"),
    [
        (None, "no such user"),
        (User(("user",), T0, "erased"), "no such user"),
        (User(("user",), T0, "suspended"), "suspended"),
        (User(("user",), T0, signed_out_at=T0), "signing out"),
        (User(("user",), T0, signed_out_at=T0 - 1), ""),
    ],
)
def test_whether_a_session_stands_is_in_the_log(user: User | None, why: str) -> None:
    access = Access({"uada": user} if user else {})
    said = stands(access, Session("uada", "f1", T0))
    assert why in said
    assert bool(said) == bool(why)


# Throttles


def test_so_many_failures_and_then_a_pause() -> None:
    throttle = Throttle(3)
    for at in range(3):
        assert throttle.wait_s("ada", at) == 0
        throttle.failed("ada", at)
    assert throttle.wait_s("ada", 10) == WINDOW_S - 10
    assert throttle.wait_s("bob", 10) == 0
    assert throttle.wait_s("ada", WINDOW_S) == 0
    throttle.failed("ada", WINDOW_S)
    assert throttle.wait_s("ada", WINDOW_S) == 0, "counted from the beginning"


def test_success_and_what_was_no_failure_are_forgotten() -> None:
    throttle = Throttle(2)
    for _ in range(2):
        throttle.failed("ada", 0)
    throttle.took_back("ada")
    assert throttle.wait_s("ada", 1) == 0
    throttle.failed("ada", 1)
    throttle.succeeded("ada")
    assert throttle.wait_s("ada", 1) == 0
    throttle.took_back("ada")


def test_only_so_much_is_counted() -> None:
    throttle = Throttle(1)
    for at in range(COUNTS_MAX + 5):
        throttle.failed(hashlib.md5(b"%d" % at).hexdigest(), 0)
    assert len(throttle._counts) == COUNTS_MAX


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("10.0.0.1", "10.0.0.1", True),
        ("10.0.0.1", "10.0.0.2", False),
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("::ffff:10.0.0.1", "10.0.0.1", True),
        ("testclient", "testclient", True),
    ],
)
def test_failures_are_counted_for_whoever_has_the_addresses(one: str, other: str, same: bool) -> None:
    assert (network_of(one) == network_of(other)) == same
