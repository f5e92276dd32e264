"""Mail, handed in to a real SMTP server: links to verify an address and to set a password, and no mail where none should go."""

import asyncio
import contextlib
import email
import email.policy
import re
from collections.abc import AsyncGenerator
from email.message import EmailMessage
from pathlib import Path

import pytest

from infra.database import Database
from infra.mail import Mailer, MailFailed
from infra.settings import Settings
from services.accounts.mails import MAILS_MAX
from tests.nats_support import until
from tests.people_support import OTHER, Town, ground, refused, town
from tests.postgres_support import Server, own_database

TOKEN = re.compile(r"hivl_[\w-]{43}")


class Post:
    """An SMTP server that keeps what it is handed."""

    def __init__(self) -> None:
        self.mails: list[EmailMessage] = []
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 post\r\n")
        while line := (await reader.readline()).decode().strip():
            word = line.split(" ")[0].upper()
            if word == "DATA":
                writer.write(b"354 go on\r\n")
                data = await reader.readuntil(b"\r\n.\r\n")
                parsed = email.message_from_bytes(data[:-5], policy=email.policy.default)
                assert isinstance(parsed, EmailMessage)
                self.mails.append(parsed)
            writer.write(b"221 bye\r\n" if word == "QUIT" else b"250 ok\r\n")
            if word == "QUIT":
                break
        writer.close()

    def token(self) -> str:
        """That of the newest mail."""
        found = TOKEN.search(self.mails[-1].get_content())
        assert found
        return found[0]


@pytest.fixture
async def post() -> AsyncGenerator[Post]:
    made = Post()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    yield made
    server.close()


@contextlib.asynccontextmanager
async def with_mail(server: Server, root: Path, url: str) -> AsyncGenerator[tuple[Town, Database]]:
    settings = Settings(
        registration="open", smtp_url=url, mail_from="hive@example.org", public_url="https://hive.example.org"
    )
    async with own_database(server) as database, ground(root / "nats") as link:
        async with town(link, database, root / "here", settings) as here:
            yield here, database


async def test_an_address_is_verified_and_sets_a_password(server: Server, post: Post, tmp_path: Path) -> None:
    async with with_mail(server, tmp_path, f"smtp://127.0.0.1:{post.port}") as (here, _):
        people, mails = here.host.people, here.host.mails
        user = await here.join("ada", "Ada@example.org")
        await until(lambda: len(post.mails) == 1, "a link to verify the address is sent")
        assert post.mails[0]["To"] == "Ada@example.org"
        assert post.mails[0]["From"] == "hive@example.org"
        assert "https://hive.example.org" in post.mails[0].get_content()

        mails.send_reset("ada@example.org")  # not verified yet: no mail
        assert await mails.verify(post.token()) == user
        assert (await people.profile(user)).verified
        with refused("bad_link"):
            await mails.verify(post.token())

        mails.send_reset("ADA@example.org")
        await until(lambda: len(post.mails) == 2, "a link to set a password is sent")
        assert post.mails[1]["To"] == "Ada@example.org", "as its user wrote it"
        with refused("bad_link"):
            await mails.verify(post.token())
        await people.reset_password(post.token(), OTHER)
        await people.log_in("ada", OTHER)

        await people.set_mail(user, "new@example.org", OTHER)
        await until(lambda: len(post.mails) == 3, "another address is to be verified, too")
        assert not (await people.profile(user)).verified
        with refused("wrong_login"):
            await people.set_mail(user, "thief@example.org", "a wrong password")


async def test_an_address_is_one_users(server: Server, post: Post, tmp_path: Path) -> None:
    async with with_mail(server, tmp_path, f"smtp://127.0.0.1:{post.port}") as (here, _):
        await here.join("ada", "both@example.org")
        await until(lambda: len(post.mails) == 1, "sent")
        first = post.token()
        await here.join("bob", "both@example.org")
        await until(lambda: len(post.mails) == 2, "sent")
        second = post.token()
        await here.host.mails.verify(second)
        with refused("mail_taken"):
            await here.host.mails.verify(first)


async def test_nobody_is_flooded_and_strangers_get_none(server: Server, post: Post, tmp_path: Path) -> None:
    async with with_mail(server, tmp_path, f"smtp://127.0.0.1:{post.port}") as (here, _):
        mails = here.host.mails
        await here.join("ada", "ada@example.org")
        await until(lambda: len(post.mails) == 1, "sent")
        await mails.verify(post.token())
        mails.send_reset("nobody@example.org")
        for _ in range(MAILS_MAX * 3):
            mails.send_reset("ada@example.org")
        await mails.close()
        assert len(post.mails) == MAILS_MAX
        with refused("bad_mail"):
            mails.send_reset("ada@example.org\r\nBcc: thief@example.org")


async def test_a_server_that_is_away_stops_nothing(server: Server, tmp_path: Path) -> None:
    async with with_mail(server, tmp_path, "smtp://127.0.0.1:1") as (here, _):
        user = await here.join("ada", "ada@example.org")
        await here.host.mails.close()
        assert not (await here.host.people.profile(user)).verified


async def test_without_a_server_there_is_no_mail(server: Server, tmp_path: Path) -> None:
    async with own_database(server) as database, ground(tmp_path / "nats") as link:
        async with town(link, database, tmp_path / "here") as here:
            await here.join("ada", "ada@example.org")
            with refused("no_mail"):
                here.host.mails.send_reset("ada@example.org")


async def test_mail_leaves_this_machine_over_tls_alone(post: Post) -> None:
    server = await asyncio.start_server(post.serve, "127.0.0.2", 0)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(MailFailed, match="STARTTLS"):
        await Mailer(f"smtp://127.0.0.2:{port}", "hive@example.org").send("ada@example.org", "x", "y")
    server.close()
    assert not post.mails
