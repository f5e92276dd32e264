"""People on real servers: registering, logging in, passwords, and what bad input does not do."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from events import catalog
from infra.database import Database
from infra.link import Link
from infra.passwords import Passwords
from infra.settings import Settings
from services.accounts.commands import Stand
from services.accounts.failures import ACCOUNT_FAILURES_MAX, REGISTRATIONS_MAX, Throttled
from services.accounts.keys import digest_of
from services.accounts.sessions import BadToken
from tests.nats_support import until
from tests.people_support import OTHER, PASSWORD, Town, accounts_log, ground, refused, town

LATER_MS = 4_000_000_000_000


@pytest.fixture
async def link(tmp_path: Path) -> AsyncGenerator[Link]:
    async with ground(tmp_path / "nats") as made:
        yield made


@pytest.fixture
async def here(link: Link, database: Database, tmp_path: Path) -> AsyncGenerator[Town]:
    """One process, where anybody may register."""
    async with town(link, database, tmp_path / "here") as made:
        yield made


# Registering


async def test_whoever_registers_is_in_the_log_by_an_opaque_id_alone(here: Town, link: Link) -> None:
    user = await here.join("Ada", "ada@example.org")
    assert here.access.state.users[user].roles == ("user",)
    profile = await here.host.people.profile(user)
    assert (profile.name, profile.mail, profile.verified) == ("Ada", "ada@example.org", False)
    sealed = here.host.keyring.seal(user, b"echo hello")
    assert here.host.keyring.open(sealed) == b"echo hello"
    said = b"".join([catalog.encode(message) for message in await accounts_log(link)])
    for secret in (b"Ada", b"ada@", b"example", PASSWORD.encode()):
        assert secret not in said
    rows = await here.database.fetch("SELECT u::text FROM identity.users u")
    assert "example" not in str(rows)
    assert PASSWORD not in str(rows)


@pytest.mark.parametrize("name", ["ada", "Ada", "AdA", "àda"])
async def test_a_name_is_taken_and_so_is_what_looks_like_it(here: Town, name: str) -> None:
    await here.join("ada")
    with refused("name_taken"):
        await here.host.people.register(name, OTHER)


@pytest.mark.parametrize(
    ("name", "password", "mail", "code"),
    [
        ("admin", PASSWORD, "", "bad_name"),
        ("a", PASSWORD, "", "bad_name"),
        ("ada", "short", "", "weak_password"),
        ("ada", "password123", "", "weak_password"),
        ("ada", "it is ada again", "", "weak_password"),
        ("ada", PASSWORD, "nobody", "bad_mail"),
        ("ada", PASSWORD, "a@b.c\nBcc: x@y.z", "bad_mail"),
    ],
)
async def test_bad_input_changes_nothing(here: Town, name: str, password: str, mail: str, code: str) -> None:
    with refused(code):
        await here.host.people.register(name, password, mail)
    assert not [row for row in await here.host.store.users() if row.name != "admin"]


async def test_two_who_want_one_name_at_once(here: Town) -> None:
    wants = [here.host.people.register("ada", password) for password in (PASSWORD, OTHER)]
    ends = await asyncio.gather(*wants, return_exceptions=True)
    assert sorted(isinstance(end, str) for end in ends) == [False, True]
    assert len(here.access.state.users) == 2


async def test_invitations(link: Link, database: Database, tmp_path: Path) -> None:
    async with town(link, database, tmp_path / "here", Settings(registration="invite")) as here:
        with refused("closed"):
            await here.join("ada")
        text = await here.invite(["owner", "user"])
        user = await here.host.people.register("ada", PASSWORD, invite=digest_of(text))
        assert here.access.state.users[user].roles == ("owner", "user")
        for used in (text, "hivi_none"):
            with refused("bad_invite"):
                await here.host.people.register("bob", PASSWORD, invite=digest_of(used))
        assert [row.name for row in await here.host.store.users()].count("bob") == 0
        assert not await here.host.store.pending(LATER_MS), "the name was freed"
    async with town(link, database, tmp_path / "here", Settings(registration="closed")) as here:
        with refused("closed"):
            await here.join("bob")


# Coming in


async def test_a_session_from_login_to_logout(here: Town) -> None:
    user = await here.join()
    people, sessions = here.host.people, here.host.sessions
    first = await people.log_in("ADA", PASSWORD)
    assert first.user == user
    assert here.lets_in(first.access)
    second = await sessions.refresh(first.refresh, here.access.state)
    assert second.family == first.family
    assert here.lets_in(second.access)
    third = await sessions.refresh(first.refresh, here.access.state)  # its answer was lost
    await sessions.end_with(third.refresh)
    for tokens in (first, second, third):
        assert not here.lets_in(tokens.access)
        with pytest.raises(BadToken):
            await sessions.refresh(tokens.refresh, here.access.state)


async def test_a_refresh_token_used_twice_ends_its_family_and_no_other(here: Town) -> None:
    await here.join()
    sessions = here.host.sessions
    stolen, other = await here.host.people.log_in("ada", PASSWORD), await here.host.people.log_in("ada", PASSWORD)
    second = await sessions.refresh(stolen.refresh, here.access.state)
    third = await sessions.refresh(second.refresh, here.access.state)
    with pytest.raises(BadToken, match="used before"):
        await sessions.refresh(stolen.refresh, here.access.state)
    assert not here.lets_in(third.access)
    with pytest.raises(BadToken):
        await sessions.refresh(third.refresh, here.access.state)
    assert here.lets_in(other.access)
    assert await sessions.refresh(other.refresh, here.access.state)


async def test_many_retries_of_one_refresh_at_once_do_not_end_it(here: Town) -> None:
    await here.join()
    first = await here.host.people.log_in("ada", PASSWORD)
    got = await asyncio.gather(*(here.host.sessions.refresh(first.refresh, here.access.state) for _ in range(5)))
    row = await here.host.store.session(first.family)
    assert row is not None
    assert not row.ended
    assert len({tokens.refresh for tokens in got}) == 5


async def test_wrong_names_and_passwords_are_told_alike(here: Town) -> None:
    await here.join("ada")
    for name, password in (("ada", OTHER), ("nobody", PASSWORD), ("àda", PASSWORD), ("admin", ""), ("ada", "")):
        with refused("wrong_login"):
            await here.host.people.log_in(name, password)


async def test_guessing_is_slowed_by_account_and_the_right_one_clears_it(here: Town) -> None:
    await here.join("ada")
    await here.join("bob")
    people = here.host.people
    for _ in range(ACCOUNT_FAILURES_MAX - 1):
        with refused("wrong_login"):
            await people.log_in("ada", OTHER, "10.0.0.1")
    await people.log_in("ada", PASSWORD, "10.0.0.1")
    tries = [people.log_in("ADA", OTHER, f"10.0.0.{n}") for n in range(ACCOUNT_FAILURES_MAX * 2)]
    ends = await asyncio.gather(*tries, return_exceptions=True)
    assert sum(isinstance(end, Throttled) for end in ends) == ACCOUNT_FAILURES_MAX, "also many at once"
    with pytest.raises(Throttled):
        await people.log_in("ada", PASSWORD, "10.0.0.1")
    await people.log_in("bob", PASSWORD, "10.0.0.1")


async def test_guessing_is_counted_for_all_processes_together(
    here: Town, link: Link, database: Database, tmp_path: Path
) -> None:
    user = await here.join("ada")
    async with town(link, database, tmp_path / "there", leads=False) as there:
        await until(lambda: user in there.access.state.users, "the other one follows")
        for n in range(ACCOUNT_FAILURES_MAX):
            with refused("wrong_login"):
                await (here, there)[n % 2].host.people.log_in("ada", OTHER, "10.0.0.1")
        for one in (here, there):
            with pytest.raises(Throttled):
                await one.host.people.log_in("ada", PASSWORD, "10.0.0.2")
        await database.execute("UPDATE identity.failures SET since = since - 300000")
        await there.host.people.log_in("ada", PASSWORD, "10.0.0.2")
        await database.execute("UPDATE identity.failures SET since = since - 300000")
        await here.host.people.parts.failures.forget_over()
        assert await database.fetch("SELECT 1 FROM identity.failures") == []


async def test_registrations_from_one_address_are_few(here: Town) -> None:
    ends = await asyncio.gather(
        *(
            here.host.people.register(f"somebody{n}", PASSWORD, address="10.0.0.9")
            for n in range(REGISTRATIONS_MAX + 3)
        ),
        return_exceptions=True,
    )
    assert sum(isinstance(end, Throttled) for end in ends) == 3, [repr(end) for end in ends]


async def test_ones_own_sessions_are_listed_and_ended_and_nobody_elses(here: Town) -> None:
    await here.join("ada")
    await here.join("bob")
    people, sessions = here.host.people, here.host.sessions
    first, second = [await people.log_in("ada", PASSWORD) for _ in range(2)]
    other = await people.log_in("bob", PASSWORD)
    assert {row.family for row in await sessions.of(first.user)} >= {first.family, second.family}
    assert other.family not in {row.family for row in await sessions.of(first.user)}
    assert not await sessions.end_own(first.user, other.family)
    assert not await sessions.end_own(first.user, "nothing")
    assert here.lets_in(other.access)
    assert await sessions.end_own(first.user, first.family)
    assert not await sessions.end_own(first.user, first.family), "it is over"
    assert not here.lets_in(first.access)
    assert here.lets_in(second.access)
    with pytest.raises(BadToken):
        await sessions.refresh(first.refresh, here.access.state)
    assert first.family not in {row.family for row in await sessions.of(first.user)}


async def test_guessing_is_slowed_by_address(here: Town) -> None:
    await here.join("ada")
    people = here.host.people
    tries = [people.log_in(f"somebody{n}", OTHER, f"2001:db8::{n:x}") for n in range(60)]
    ends = await asyncio.gather(*tries, return_exceptions=True)
    assert sum(isinstance(end, Throttled) for end in ends) == 10
    with pytest.raises(Throttled):
        await people.log_in("ada", PASSWORD, "2001:db8::ffff")
    await people.log_in("ada", PASSWORD, "2001:db8:0:1::")


async def test_suspended_users_do_not_come_in_and_go_on_where_they_were(here: Town) -> None:
    user = await here.join()
    tokens = await here.host.people.log_in("ada", PASSWORD)
    await here.tell(Stand(user, "suspended"))
    assert not here.lets_in(tokens.access)
    with refused("suspended"):
        await here.host.people.log_in("ada", PASSWORD)
    with refused("wrong_login"):
        await here.host.people.log_in("ada", OTHER)
    with pytest.raises(BadToken, match="suspended"):
        await here.host.sessions.refresh(tokens.refresh, here.access.state)
    await here.tell(Stand(user, "resumed"))
    assert here.lets_in(tokens.access)
    assert await here.host.sessions.refresh(tokens.refresh, here.access.state)


async def test_signing_out_everywhere_holds_in_every_process(
    here: Town, link: Link, database: Database, tmp_path: Path
) -> None:
    user = await here.join()
    tokens = await here.host.people.log_in("ada", PASSWORD)
    async with town(link, database, tmp_path / "here", leads=False) as there:
        await until(lambda: user in there.access.state.users, "the other one follows")
        assert there.lets_in(tokens.access)
        await here.host.people.sign_out(user)
        await until(lambda: not there.lets_in(tokens.access), "signed out there, too")
        with pytest.raises(BadToken):
            await there.host.sessions.refresh(tokens.refresh, there.access.state)
        again = await here.host.people.log_in("ada", PASSWORD)
        assert here.lets_in(again.access)
        assert there.lets_in(again.access)


# Passwords


async def test_another_password_ends_other_sessions(here: Town) -> None:
    user = await here.join()
    people = here.host.people
    before = await people.log_in("ada", PASSWORD)
    with refused("wrong_login"):
        await people.change_password(user, OTHER, OTHER)
    with refused("weak_password"):
        await people.change_password(user, PASSWORD, "ada ada ada")
    assert here.lets_in(before.access)
    after = await people.change_password(user, PASSWORD, OTHER)
    assert not here.lets_in(before.access)
    assert here.lets_in(after.access)
    with refused("wrong_login"):
        await people.log_in("ada", PASSWORD)
    await people.log_in("ada", OTHER)


async def test_hashes_follow_the_parameters_of_today(
    here: Town, link: Link, database: Database, tmp_path: Path
) -> None:
    user = await here.join()
    before = await here.host.store.user(user)
    people = here.host.people
    people.parts.passwords._hasher = Passwords(kib=128, rounds=1)._hasher
    await people.log_in("ada", PASSWORD)
    after = await here.host.store.user(user)
    assert before is not None
    assert after is not None
    assert "m=64," in before.password
    assert "m=128," in after.password
    await people.log_in("ada", PASSWORD)


async def test_a_link_sets_a_password_once(here: Town) -> None:
    user = await here.join()
    people, mails = here.host.people, here.host.mails
    session = await people.log_in("ada", PASSWORD)
    void, _ = await mails.new_link(user, "reset")
    good, _ = await mails.new_link(user, "reset")
    for bad in (void, "hivl_none", ""):
        with refused("bad_link"):
            await people.reset_password(bad, OTHER)
    with refused("weak_password"):
        await people.reset_password(good, "short")
    assert await people.reset_password(good, OTHER) == user
    assert not here.lets_in(session.access)
    with refused("bad_link"):
        await people.reset_password(good, PASSWORD)
    await people.log_in("ada", OTHER)
    with refused("no_user"):
        await mails.new_link("nobody", "reset")
    raced, _ = await mails.new_link(user, "reset")
    tries = [people.reset_password(raced, f"{PASSWORD} {n}") for n in range(4)]
    ends = await asyncio.gather(*tries, return_exceptions=True)
    assert ends.count(user) == 1, "of those who come at once, too, one has it"


async def test_the_admin_gets_a_password_by_link(here: Town) -> None:
    await here.admin_is_there()
    token, _ = await here.host.mails.new_link("admin", "reset")
    await here.host.people.reset_password(token, PASSWORD)
    assert (await here.host.people.log_in("admin", PASSWORD)).user == "admin"
