"""When browsers are told to come by TLS alone, and that an answer's own headers stay."""

from typing import Any

import pytest

from web.headers import SafeHeaders


async def headers_of(
    scheme: str, host: bytes, own: list[tuple[bytes, bytes]] | None = None
) -> list[tuple[bytes, bytes]]:
    """Those of an answer, which has its own."""
    sent: list[Any] = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": own or []})
        await send({"type": "http.response.body", "body": b""})

    async def send(message: Any) -> None:
        sent.append(message)

    scope: Any = {"type": "http", "method": "GET", "scheme": scheme, "path": "/", "headers": [(b"host", host)]}
    nothing: Any = None
    await SafeHeaders(inner)(scope, nothing, send)
    return sent[0]["headers"]


@pytest.mark.parametrize(
    ("scheme", "host", "strict"),
    [
        ("https", b"hive.example.org", True),
        ("https", b"hive.example.org:8420", True),
        ("http", b"hive.example.org", False),
        ("https", b"localhost:8420", False),
        ("https", b"127.0.0.1", False),
        ("https", b"[::1]:8420", False),
        ("https", b"[broken", True),
    ],
)
async def test_only_names_of_other_machines_are_for_tls_alone(scheme: str, host: bytes, strict: bool) -> None:
    names = [name for name, _ in await headers_of(scheme, host)]
    assert (b"strict-transport-security" in names) is strict


async def test_what_an_answer_says_itself_stays() -> None:
    own = (b"content-security-policy", b"default-src 'self'")
    found = await headers_of("http", b"h", [own])
    assert [value for name, value in found if name == own[0]] == [own[1]]
    assert (b"x-frame-options", b"DENY") in found
