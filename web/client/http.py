"""Requests with bounded retries: what is asked twice does no harm, since every request here is idempotent.

Submissions carry an Idempotency-Key; the rest says how things are to be.
"""

import asyncio
import os
import random
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import aiohttp

from infra.tls import CA_ENV, INSECURE_ENV, PIN_ENV, TlsError, Trust, check_private, doubt
from web.client.errors import HiveError, Unavailable, Untrusted, of_answer

TRY_S_MAX = 60.0
"""How long a request is tried again while the hive is away; a submission still counts once."""
READ_TRY_S_MAX = 10.0
"""The same for questions, which somebody waits for."""
FIRST_TRY_S_MAX = 2.0
"""The same for a hive that never answered this client: it is probably not there."""
PAUSE_S_MIN, PAUSE_S_MAX = 0.05, 2.0
ANSWER_S = 90.0
SILENCE_S = 45.0
"""A stream says something every 15 s; after three times that it is taken for broken."""
CONNECT_S = 5.0
CONNECTIONS_MAX = 64

Body: TypeAlias = bytes | Callable[[], Any]
"""Bytes, or what makes a fresh body for each try."""
Query: TypeAlias = list[tuple[str, str]]

BROKEN = (aiohttp.ClientError, ConnectionError, asyncio.IncompleteReadError, TimeoutError)


class Http:
    """One hive's API, over kept connections. Raises Untrusted for an address over which others could read the key."""

    def __init__(self, url: str, key: str, try_s: float, trust: Trust | None = None) -> None:
        self.url, self.try_s = url.rstrip("/"), try_s
        try:
            check_private(self.url, os.environ)
        except TlsError as error:
            remedy = f"where nobody can listen on the way, {INSECURE_ENV}=1 lets keys go over it all the same"
            raise Untrusted(str(error), remedy=remedy) from None
        self._trust = trust or Trust()
        self.met = False
        self._headers = {"Authorization": f"Bearer {key}"} if key else dict[str, str]()
        self._session: aiohttp.ClientSession | None = None

    async def _opened(self) -> aiohttp.ClientSession:
        """The connections, made when first needed. Raises Untrusted, or one of BROKEN."""
        secure = self.url.startswith("https://")
        if secure and self._trust.pin:
            try:
                self._trust = await self._trust.settled(self.url)
            except TlsError as error:
                raise Untrusted(str(error)) from error
            except OSError as error:
                raise ConnectionError(str(error)) from error
        if self._session is None:
            context = self._trust.context() if secure else True
            self._session = aiohttp.ClientSession(
                headers=self._headers,
                connector=aiohttp.TCPConnector(limit=CONNECTIONS_MAX, keepalive_timeout=30, ssl=context),
                timeout=aiohttp.ClientTimeout(total=ANSWER_S, sock_connect=CONNECT_S),
                auto_decompress=False,
            )
        return self._session

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def ask(
        self,
        method: str,
        path: str,
        query: Query | None = None,
        body: Body | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> bytes:
        """The body of a good answer. Raises HiveError."""
        retry = Retry(self, READ_TRY_S_MAX if method == "GET" else TRY_S_MAX)
        while True:
            try:
                data = body() if callable(body) else body
                request = (await self._opened()).request(
                    method, self.url + path, params=query, data=data, headers=headers
                )
                async with request as answer:
                    content = await answer.read()
                    self.met = True
                    if answer.status < 400:
                        return content
                    error = of_answer(answer.status, content)
                    after = answer.headers.get("Retry-After", "")
            except BROKEN as trouble:
                error, after = unreachable(self.url, trouble), ""
            await retry.pause(error, after)

    @asynccontextmanager
    async def stream(
        self, path: str, query: Query | None = None, headers: Mapping[str, str] | None = None
    ) -> AsyncGenerator[aiohttp.ClientResponse]:
        """An answer that goes on for long; one try. Raises HiveError, or one of BROKEN while it is read."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=SILENCE_S)
        async with (await self._opened()).get(
            self.url + path, params=query, headers=headers, timeout=timeout
        ) as answer:
            self.met = True
            if answer.status >= 400:
                raise of_answer(answer.status, await answer.read())
            yield answer


class Retry:
    """Pauses between tries, growing and with jitter, until the time is over."""

    def __init__(self, http: Http, most_s: float = TRY_S_MAX) -> None:
        self._http, self._try_s = http, min(http.try_s, most_s)
        self.again()

    def again(self) -> None:
        """It went well: count from here again."""
        self._since, self._pause = time.monotonic(), PAUSE_S_MIN

    async def pause(self, error: HiveError, after: str = "") -> None:
        """Wait before the next try. Raises `error` when there is to be none."""
        most = self._try_s if self._http.met else min(self._try_s, FIRST_TRY_S_MAX)
        left = self._since + most - time.monotonic()
        if not isinstance(error, Unavailable) or left <= 0:
            raise error
        pause = min(float(after), PAUSE_S_MAX) if after.isdecimal() else self._pause
        self._pause = min(self._pause * 2, PAUSE_S_MAX)
        await asyncio.sleep(min(random.uniform(0.5, 1.0) * pause, left))


def unreachable(url: str, trouble: BaseException) -> HiveError:
    """The error of a connection that failed or broke."""
    if doubted := doubt(trouble):
        remedy = f"is it the right address? {CA_ENV} names the file of a hive's authority, {PIN_ENV} its fingerprint"
        return Untrusted(f"who answers at {url} is not trusted: {doubted}", remedy=remedy)
    why = str(trouble) or type(trouble).__name__
    return Unavailable(f"no hive answers at {url} ({why})", remedy="is it running? `hivectl up` starts one")
