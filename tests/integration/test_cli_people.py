"""hivectl for people: registering, sessions that are kept and refreshed, looking after users, against a served API."""

import asyncio
import io
import stat
import time
from collections.abc import AsyncGenerator
from pathlib import Path

import msgspec
import pytest

from infra.database import Database
from infra.tls import Trust
from services.cli import logins
from services.cli.context import Context
from services.cli.failure import Exit
from services.cli.main import run
from services.cli.output import Mode, Output
from tests.people_support import OTHER, PASSWORD
from tests.people_web_support import Served, people_api
from tests.web_support import api
from web.client.errors import Unauthorized
from web.client.people import Door
from web.core import Network


@pytest.fixture
async def served(tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Served]:
    async with people_api(tmp_path / "hive", database) as made:
        monkeypatch.setenv("HIVE_DATA", str(tmp_path / "none"))
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
        monkeypatch.setenv("HIVE_URL", made.url)
        monkeypatch.delenv("HIVE_KEY", raising=False)
        yield made


async def hivectl(*words: str, stdin: str = "", mode: Mode = "text", key: str = "") -> tuple[int, str, str]:
    """Exit code, standard output, standard error; in a thread, as the API is served by this loop."""
    out, err = io.StringIO(), io.StringIO()

    def work() -> int:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.stdin", io.StringIO(stdin))
            if key:
                patch.setenv("HIVE_KEY", key)
            return run(words, Output(mode, out, err))

    return await asyncio.to_thread(work), out.getvalue(), err.getvalue()


async def test_registering_logging_in_and_out(served: Served) -> None:
    code, _, said = await hivectl(
        "user", "register", "ada", "--email", "ada@example.org", "--password-stdin", stdin=PASSWORD
    )
    assert code == Exit.OK, said
    kept = logins.file()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert stat.S_IMODE(kept.parent.stat().st_mode) == 0o700
    assert PASSWORD not in kept.read_text()
    code, out, said = await hivectl("me")
    assert code == Exit.OK, said
    assert "ada@example.org (not verified)" in out
    code, out, said = await hivectl("user", "password", "--password-stdin", stdin=f"{PASSWORD}\n{OTHER}\n")
    assert code == Exit.OK, said
    assert (await hivectl("me", mode="quiet"))[0] == Exit.OK
    assert (await hivectl("logout"))[0] == Exit.OK
    assert (await hivectl("me"))[0] == Exit.UNAUTHORIZED
    code, _, said = await hivectl("login", "ada", "--password-stdin", stdin=PASSWORD)
    assert code == Exit.UNAUTHORIZED
    assert "the name or the password is wrong" in said
    assert (await hivectl("login", "ada", "--password-stdin", stdin=OTHER))[0] == Exit.OK
    assert (await hivectl("user", "sign-out"))[0] == Exit.OK
    assert (await hivectl("me"))[0] == Exit.UNAUTHORIZED
    code, _, said = await hivectl("logout")
    assert code == Exit.REFUSED
    assert "nobody is logged in" in said


async def test_a_session_is_refreshed_by_itself_and_by_one_command_at_a_time(served: Served) -> None:
    await hivectl("user", "register", "ada", "--password-stdin", stdin=PASSWORD)
    login = logins.known()[served.url]
    logins.keep(served.url, msgspec.structs.replace(login, expires_at=int(time.time() * 1000)))
    ends = await asyncio.gather(*(asyncio.to_thread(logins.token_for, served.url) for _ in range(4)))
    assert len(set(ends)) == 1
    assert ends[0] != login.access
    assert logins.known()[served.url].refresh != login.refresh
    assert (await hivectl("me"))[0] == Exit.OK


async def test_sessions_are_listed_and_ended(served: Served) -> None:
    await hivectl("user", "register", "ada", "--password-stdin", stdin=PASSWORD)
    mine = logins.known()[served.url].refresh.partition(".")[0]
    other = await Door(served.url).log_in("ada", PASSWORD)
    code, out, _ = await hivectl("session", "list")
    assert code == Exit.OK
    assert [line.split()[0] for line in out.splitlines() if "this one" in line] == [mine]
    shown = (await hivectl("session", "list", mode="quiet"))[1].split()
    assert set(shown) == {mine, other.refresh.partition(".")[0]}
    code, _, said = await hivectl("session", "end", "nothing")
    assert (code, "session list" in said or "sessions" in said) == (Exit.REFUSED, True)
    assert (await hivectl("session", "end", other.refresh.partition(".")[0]))[0] == Exit.OK
    with pytest.raises(Unauthorized):
        await Door(served.url).refresh(other.refresh)
    assert (await hivectl("me"))[0] == Exit.OK
    assert (await hivectl("session", "end", mine))[0] == Exit.OK
    assert (await hivectl("me"))[0] == Exit.UNAUTHORIZED


async def test_a_session_that_is_over_says_so(served: Served) -> None:
    await hivectl("user", "register", "ada", "--password-stdin", stdin=PASSWORD)
    login = logins.known()[served.url]
    await served.host.sessions.end(login.refresh.split(".")[0])
    logins.keep(served.url, msgspec.structs.replace(login, expires_at=0))
    code, _, said = await hivectl("me")
    assert code == Exit.UNAUTHORIZED
    assert "is over" in said
    assert "hivectl login" in said
    assert served.url not in logins.known()


async def test_looking_after_users_by_name(served: Served) -> None:
    await served.join("ada")
    key = served.hive.key
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Context, "address", lambda context: (served.url, key, Trust()))
        for words in (
            ("user", "roles", "ada", "operator", "user"), ("user", "limits", "ada", "--open-jobs", "5", "--upload", "2GiB"),
            ("user", "suspend", "ada"), ("user", "resume", "Ada"), ("user", "sign-out", "ada"),
        ):  # fmt: skip
            code, _, said = await hivectl(*words)
            assert code == Exit.OK, said
        code, out, _ = await hivectl("user", "show", "ada")
        assert "operator, user" in out
        assert "5 open_jobs" in out
        code, out, _ = await hivectl("user", "list")
        assert "ada" in out
        code, out, _ = await hivectl("user", "reset-link", "ada")
        token = out.strip()
        assert (await hivectl("user", "reset-password", token, "--password-stdin", stdin=OTHER))[0] == Exit.OK
        code, out, said = await hivectl("invite", "create", "--role", "owner", "--uses", "2", "--expires", "12h")
        assert code == Exit.OK, said
        text = out.strip()
        assert text.startswith("hivi_")
        code, out, _ = await hivectl("invite", "list")
        assert "0 of 2" in out
        code, invite, _ = await hivectl("invite", "list", mode="quiet")
        assert (await hivectl("invite", "revoke", invite.strip()))[0] == Exit.OK
        code, _, said = await hivectl("user", "erase", "ada", "--yes")
        assert code == Exit.OK, said
        code, _, said = await hivectl("user", "show", "ada")
        assert code == Exit.REFUSED
        assert "there is no user 'ada'" in said
    code, _, said = await hivectl("user", "register", "bob", "--invite", text, "--password-stdin", stdin=PASSWORD)
    assert code != Exit.OK
    assert "revoked" in said


async def test_secrets_are_typed_nowhere_and_shown_to_nobody(served: Served) -> None:
    key = served.hive.key
    value = "swordfish-4711-tango"
    code, _, said = await hivectl("secret", "list", key=key)
    assert code == Exit.OK
    assert "no secrets yet" in said
    code, out, said = await hivectl("secret", "set", "DB_PASSWORD", stdin=f"{value}\n", key=key)
    assert code == Exit.OK, said
    assert value not in out + said
    assert await served.host.secrets.values("admin", ["DB_PASSWORD"]) == [value]
    code, out, _ = await hivectl("secret", "list", key=key)
    assert code == Exit.OK
    assert "DB_PASSWORD" in out
    assert value not in out
    code, out, said = await hivectl("submit", "--secret", "PGPASSWORD=DB_PASSWORD", "--", "true", key=key)
    assert code == Exit.OK, said
    code, _, said = await hivectl("submit", "--secret", "OTHER", "--", "true", key=key)
    assert code != Exit.OK
    assert "you have no secret 'OTHER'" in said
    code, _, said = await hivectl("submit", "--secret", "db.password", "--", "true", key=key)
    assert code == Exit.USAGE
    assert (await hivectl("secret", "set", "EMPTY", key=key))[0] == Exit.USAGE
    assert (await hivectl("secret", "remove", "DB_PASSWORD", key=key))[0] == Exit.OK
    assert (await hivectl("secret", "remove", "DB_PASSWORD", key=key))[0] != Exit.OK


async def test_a_token_comes_with_the_address_that_other_machines_reach(served: Served) -> None:
    code, out, said = await hivectl("worker", "token", "create", key=served.hive.key)
    assert (code, out.startswith("hivw_")) == (Exit.OK, True)
    assert f"hivectl worker join {served.url} TOKEN" in said
    assert "only this machine reaches that address" in said, "nothing better is known"


@pytest.mark.parametrize(
    ("network", "told"),
    [
        (Network(public_url="https://hive.example.org/api"), "https://hive.example.org/api"),
        (Network(api_host="[fd00::5]"), "https://[fd00::5]:PORT"),
        (Network(public_url="https://hive.example.org", api_host="10.0.0.5"), "https://hive.example.org"),
    ],
)
async def test_a_hive_that_knows_its_address_tells_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, network: Network, told: str
) -> None:
    async with api(tmp_path / "hive", network=network) as hive:
        monkeypatch.setenv("HIVE_URL", hive.url)
        code, _, said = await hivectl("worker", "token", "create", key=hive.key)
        assert code == Exit.OK, said
        assert f"hivectl worker join {told.replace('PORT', str(hive.server.port))} TOKEN" in said
        assert "only this machine" not in said
