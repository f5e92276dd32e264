"""Fetches inputs from URLs: what a stranger's job names is asked for from the owner's network, so it may only lead to
the public internet unless the owner says otherwise, at every redirect, by the very address that is connected to.
"""

import asyncio
import hashlib
import os
import random
import socket
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Literal, TypeAlias
from urllib.parse import urljoin, urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

from events.base import Digest
from events.inputs import why_no_url
from events.units import size_text

Urls: TypeAlias = Literal["none", "public", "any"]
"""What the machine's owner lets jobs fetch: nothing, what everybody on the internet can, or anything it can reach."""

FETCH_BYTES_MAX = 256 * 1024**3
FETCH_S_MAX = 6 * 3600.0
REDIRECTS_MAX = 5
TRIES_MAX = 4
PAUSE_S_MIN, PAUSE_S_MAX = 0.5, 8.0
CONNECT_S, READ_S = 10.0, 60.0
CHUNK_BYTES = 1024 * 1024
FETCHES_MAX = 4
ROOM_BYTES_MIN = 256 * 1024**2
REDIRECTS = frozenset({301, 302, 303, 307, 308})
PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
_NAT64 = ip_network("64:ff9b::/96")
_V4_BITS = 0xFFFFFFFF


class NotFetched(Exception):
    """It could not be had; the text says why, without a word of the URL's."""


class _Passing(NotFetched):
    """May work when it is tried again."""


class _NotPublic(OSError):
    """The host is in a network that jobs may not reach."""


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the public internet, also what it stands for where it holds another."""
    found: IPv4Address | IPv6Address = ip_address(address.partition("%")[0])
    if isinstance(found, IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour
        if found in _NAT64:
            inner = IPv4Address(int(found) & _V4_BITS)
        if found.teredo is not None:
            return False
        if inner is not None:
            found = inner
    return found.is_global and not found.is_multicast


class _PublicOnly(AbstractResolver):
    """Names as the system resolves them, without the addresses that are not public."""

    def __init__(self) -> None:
        self._inner = ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found = [one for one in await self._inner.resolve(host, port, family) if is_public(one["host"])]
        if not found:
            raise _NotPublic
        return found

    async def close(self) -> None:
        await self._inner.close()


class Fetcher:
    """Fetches from where `urls` allows. Make it inside a running loop; `await close()` it."""

    def __init__(self, urls: Urls = "public", bytes_max: int = FETCH_BYTES_MAX) -> None:
        self._urls, self._most = urls, bytes_max
        resolver = _PublicOnly() if urls != "any" else None
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=FETCH_S_MAX, sock_connect=CONNECT_S, sock_read=READ_S),
            connector=aiohttp.TCPConnector(limit=FETCHES_MAX, resolver=resolver, use_dns_cache=False),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
        )
        self._turn = asyncio.Semaphore(FETCHES_MAX)

    async def close(self) -> None:
        """Hang up."""
        await self._session.close()

    def source(self, url: str, digest: Digest) -> Callable[[int], Awaitable[int]]:
        """What writes the bytes at `url` to a file, as the cache asks for it."""
        return lambda fd: self.fetch(url, digest, fd)

    async def fetch(self, url: str, digest: Digest, fd: int) -> int:
        """Write what is at `url` to `fd`, from its start; its size. Raises NotFetched, also when it is not what `digest`
        names, and OSError when the disk refuses.
        """
        if self._urls == "none":
            raise NotFetched("this worker's owner lets no job fetch URLs")
        pause = PAUSE_S_MIN
        async with self._turn:
            for left in range(TRIES_MAX - 1, -1, -1):
                try:
                    return await self._once(url, digest, fd)
                except _Passing as error:
                    if not left:
                        raise NotFetched(f"{error}; tried {TRIES_MAX} times") from None
                await asyncio.sleep(random.uniform(0.5, 1.0) * pause)
                pause = min(PAUSE_S_MAX, pause * 2)
        raise AssertionError

    async def _once(self, url: str, digest: Digest, fd: int) -> int:
        for _ in range(REDIRECTS_MAX + 1):
            self._check(url)
            try:
                async with self._session.get(
                    url, allow_redirects=False, headers={"Accept-Encoding": "identity", "User-Agent": "hive"}
                ) as answer:
                    if answer.status in REDIRECTS and (place := answer.headers.get("Location", "")):
                        url = urljoin(url, place)
                        continue
                    return await self._take(answer, digest, fd)
            except aiohttp.ClientConnectorDNSError as error:
                if isinstance(error.os_error, _NotPublic):
                    raise NotFetched(_CLOSED) from None
                raise _Passing("its host has no address") from None
            except aiohttp.ClientSSLError:
                raise NotFetched("its server's certificate is not trusted") from None
            except (aiohttp.InvalidURL, ValueError):
                raise NotFetched("its address is none that can be asked") from None
            except (aiohttp.ClientError, TimeoutError) as error:
                raise _Passing(f"its server cannot be reached, or broke off: {type(error).__name__}") from None
        raise NotFetched(f"it leads on more than {REDIRECTS_MAX} times")

    def _check(self, url: str) -> None:
        if why := why_no_url(url):
            raise NotFetched(f"it leads to an address that {why}")
        host = urlsplit(url).hostname or ""
        if self._urls != "any":
            try:
                closed = not is_public(host)
            except ValueError:
                return  # a name: its addresses are looked at when they are known
            if closed:
                raise NotFetched(_CLOSED)

    async def _take(self, answer: aiohttp.ClientResponse, digest: Digest, fd: int) -> int:
        if answer.status != 200:
            said = f"its server answered {answer.status}"
            raise _Passing(said) if answer.status in PASSING else NotFetched(said)
        if (answer.content_length or 0) > self._most:
            raise NotFetched(f"it is larger than {size_text(self._most)}, the limit")
        seen, size = hashlib.sha256(), 0
        os.ftruncate(fd, 0)
        async for chunk in answer.content.iter_chunked(CHUNK_BYTES):
            size += len(chunk)
            if size > self._most:
                raise NotFetched(f"it is larger than {size_text(self._most)}, the limit")
            await asyncio.to_thread(_write, fd, chunk, size - len(chunk))
            seen.update(chunk)
        if seen.hexdigest() != digest:
            raise NotFetched(f"its {size} bytes are not the ones that the digest names; they are {seen.hexdigest()}")
        return size


_CLOSED = "its host is not on the public internet; the worker's owner can allow that (`worker run --urls any`)"


def _write(fd: int, data: bytes, at: int) -> None:
    found = os.fstatvfs(fd)
    if found.f_bavail * found.f_frsize < ROOM_BYTES_MIN:
        raise NotFetched("the worker's disk is nearly full")
    view = memoryview(data)
    while view:
        done = os.pwrite(fd, view, at)
        view, at = view[done:], at + done
