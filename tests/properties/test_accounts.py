"""What holds for any history of accounts: rules that only decide, a fold that is what its log says, and nobody let in
who was shut out.
"""

import copy
from contextlib import suppress
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from events.base import Sealed
from events.catalog import AnyEvent
from projections.access import Access, apply
from services.accounts.commands import (
    BanWorker,
    Command,
    Enrol,
    Erase,
    ForgetWorker,
    Invite,
    IssueEnrolment,
    IssueKey,
    Register,
    RekeyWorker,
    RemoveSecret,
    RevokeEnrolment,
    RevokeInvite,
    RevokeKey,
    SetRoles,
    SetSecret,
    Stand,
)
from services.accounts.model import decide
from services.accounts.roles import ROLES
from services.hosting import Refused

NAME = Sealed("k1", b"")
T0 = 1_790_000_000_000
STEP_MS = 1000

users = st.sampled_from(["u0", "u1", "u2"])
names = st.sampled_from(["a", "b", "c"])
roles = st.lists(st.sampled_from(ROLES), min_size=1, max_size=2, unique=True)
moments = st.integers(T0, T0 + 40 * STEP_MS)
workers = st.sampled_from(["w0", "w1", "w2"])
public_keys = st.sampled_from(["U0", "U1", "U2", "U3"])

commands: st.SearchStrategy[Command] = st.one_of(
    st.builds(Register, users, roles),
    st.builds(lambda user, digest: Register(user, invite=f"d{digest}"), users, names),
    st.builds(SetRoles, users, roles),
    st.builds(Stand, users, st.sampled_from(["suspended", "resumed", "signed_out"])),
    st.builds(Erase, users),
    st.builds(
        lambda key, user, role, ends, replaces: IssueKey(
            f"k{key}", user, f"d{key}", "hive_", NAME, role, [], ends, replaces, T0 + 20 * STEP_MS
        ),
        names, users, st.sampled_from(["", *ROLES]), st.one_of(st.just(0), moments), st.sampled_from(["", "ka", "kb"]),
    ),
    st.builds(lambda key: RevokeKey(f"k{key}"), names),
    st.builds(lambda n, by, given, uses, ends: Invite(f"i{n}", by, f"d{n}", given, uses, ends),
              names, users, roles, st.integers(0, 2), moments),
    st.builds(lambda n: RevokeInvite(f"i{n}"), names),
    st.builds(lambda n, owner, uses, ends: IssueEnrolment(f"e{n}", owner, f"d{n}", "p", uses, ends),
              names, users, st.integers(0, 2), moments),
    st.builds(lambda n: RevokeEnrolment(f"e{n}"), names),
    st.builds(lambda worker, key, n: Enrol(worker, key, "p", f"d{n}"), workers, public_keys, names),
    st.builds(lambda worker, key, owner: Enrol(worker, key, "p", owner=owner), workers, public_keys, users),
    st.builds(RekeyWorker, workers, public_keys, public_keys),
    st.builds(BanWorker, workers),
    st.builds(ForgetWorker, workers),
    st.builds(lambda n, user, value: SetSecret(f"s{n}", user, f"v{value}"), names, users, names),
    st.builds(lambda n, user: RemoveSecret(f"s{n}", user), names, users),
)  # fmt: skip


def packed(state: Access) -> bytes:
    return msgspec.msgpack.encode(state)


def play(asked: list[Command]) -> tuple[Access, list[tuple[AnyEvent, int]]]:
    """The state and the log after all of `asked`, one a second."""
    state, log = Access(), list[tuple[AnyEvent, int]]()
    for number, command in enumerate([Register("u0", ["admin"]), *asked]):
        now = T0 + number * STEP_MS
        before = packed(state)
        events: Any = ()
        with suppress(Refused):
            events = decide(state, command, now)
        assert packed(state) == before, "decide changes nothing"
        for event in events:
            assert apply(state, event, now)
            log.append((event, now))
        check(state, now)
    return state, log


def check(state: Access, now: int) -> None:
    """What holds at every moment."""
    admins = [user for user in state.users.values() if user.state == "active" and "admin" in user.roles]
    assert len(admins) == state.admins >= 1
    for digest, name in state.key_of.items():
        key = state.keys[name]
        assert key.digest == digest
        opens = state.key(digest, now)
        if opens is not None:
            assert not key.revoked and state.users[key.user].state == "active"
            assert not key.role or not opens.role or opens.role == key.role
    for enrolment in state.enrolments.values():
        assert not enrolment.uses or enrolment.used <= enrolment.uses
    for invite in state.invites.values():
        assert invite.used <= invite.uses
    assert {worker.public_key: name for name, worker in state.workers.items()} == state.worker_of, "one key, one worker"
    for name, secret in state.secrets.items():
        assert state.users[secret.user].state != "erased"
        assert name in state.users[secret.user].secrets
    assert sum(len(user.secrets) for user in state.users.values()) == len(state.secrets)
    for worker in state.workers.values():
        assert worker.banned or state.users[worker.owner].state != "erased"
        assert worker.banned == (worker.public_key in state.shut_out)


@given(st.lists(commands, max_size=30))
def test_the_state_is_what_the_log_says(asked: list[Command]) -> None:
    state, log = play(asked)
    again = Access()
    for event, at in log:
        assert apply(again, event, at)
    assert packed(again) == packed(state)


@given(st.lists(commands, max_size=20), commands)
def test_asking_twice_does_nothing_more(asked: list[Command], last: Command) -> None:
    state, _ = play(asked)
    now = T0 + 1000 * STEP_MS
    try:
        events = decide(state, last, now)
    except Refused:
        return
    for event in events:
        apply(state, event, now)
    if isinstance(last, Stand) and last.how == "signed_out":
        return  # whoever signs out again ends the sessions that began since
    if isinstance(last, ForgetWorker):
        return  # there is nobody left of whom to ask
    before = packed(copy.deepcopy(state))
    assert [*decide(state, last, now)] == []
    assert packed(state) == before
