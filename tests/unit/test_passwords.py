"""Passwords: hashed, compared, judged, a few at a time."""

import asyncio
from collections.abc import Generator

import pytest

from infra.passwords import WAITING_MAX, Passwords, PasswordsBusy, WeakPassword

GOOD = "plum tractor 9 velvet"


@pytest.fixture
def passwords() -> Generator[Passwords]:
    made = Passwords(kib=64, rounds=1)
    yield made
    made.close()


async def test_a_hash_is_argon2id_and_of_its_password_alone(passwords: Passwords) -> None:
    hashed = await passwords.hash(GOOD)
    assert hashed.startswith("$argon2id$")
    assert GOOD not in hashed
    assert await passwords.verify(hashed, GOOD)
    assert not await passwords.verify(hashed, GOOD + " ")
    assert await passwords.hash(GOOD) != hashed


async def test_nobodys_hash_is_of_no_password(passwords: Passwords) -> None:
    for tried in ("", "nobody's", GOOD):
        assert not await passwords.verify("", tried)
    assert not await passwords.verify("no hash at all", GOOD)


async def test_parameters_that_changed_ask_for_a_new_hash(passwords: Passwords) -> None:
    hashed = await passwords.hash(GOOD)
    assert not passwords.outdated(hashed)
    stronger = Passwords(kib=128, rounds=1)
    assert stronger.outdated(hashed)
    assert await stronger.verify(hashed, GOOD)
    stronger.close()


@pytest.mark.parametrize(
    ("password", "why"),
    [
        ("short", "has 5 characters"),
        ("a" * 1025, "longer than 1024 bytes"),
        ("\ud800" * 10, "no character"),
        ("ada likes 99 plums", "holds your name"),
        ("ADA likes 99 plums", "holds your name"),
        ("password123", "too easy"),
        ("P@ssw0rd12", "too easy"),
        ("1234567890", "too easy"),
        ("qwertyuiop", "too easy"),
        ("aaaaaaaaaaaaaaaaaaaa", "too easy"),
        ("letmeinletmein", "too easy"),
        ("hivehivehive", "too easy"),
        ("ab1!" * 256, "too easy"),
    ],
)
async def test_what_would_be_guessed_is_refused(passwords: Passwords, password: str, why: str) -> None:
    with pytest.raises(WeakPassword, match=why):
        await passwords.check(password, ["ada"])


@pytest.mark.parametrize("password", [GOOD, "zq8Lk2pwxb", "пароль из трёх слов", "x9!" + "kd83hg" * 170])
async def test_what_would_not_is_taken(passwords: Passwords, password: str) -> None:
    await passwords.check(password, ["ada"])
    assert await passwords.verify(await passwords.hash(password), password)


async def test_only_so_many_wait(passwords: Passwords) -> None:
    tries = [asyncio.create_task(passwords.verify("", GOOD)) for _ in range(WAITING_MAX + 10)]
    ends = await asyncio.gather(*tries, return_exceptions=True)
    assert sum(isinstance(end, PasswordsBusy) for end in ends) == 10
    assert ends.count(False) == WAITING_MAX
