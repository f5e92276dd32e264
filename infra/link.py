"""The supervised connection to NATS that everything else uses.

A Link is up or down. While it is down, sending fails at once with LinkDown; when it goes down, every request that
waits fails at once; nothing that a caller gave up on is sent after coming back. Coming back is a new connection with
the same subscriptions, tried for ever, after 0.05 s growing to 2 s with jitter.

A request that fails may still have been carried out: what was sent cannot be unsent.
"""

import asyncio
import contextlib
import random
import re
import secrets
from collections.abc import Callable
from typing import Any, NamedTuple

import structlog

from infra.credential import Credential
from infra.nats_client import NO_CREDENTIAL, NatsClient, NatsError, Received, error_text, is_web
from infra.tls import Trust

RETRY_S_MIN = 0.05
RETRY_S_MAX = 2.0
HEALTH_S = 0.25
"""How often the connection is looked at, for the failures that nats-py does not tell of."""
OPEN_S = 10.0
CLOSE_S = 2.0
INBOX_BYTES = 16
DATA_BYTES_MAX = 1024 * 1024
UNSENT_BYTES_MAX = 32 * 1024 * 1024
NO_RESPONDERS = 503
SUBJECT = re.compile(r"[^\s.]+(\.[^\s.]+)*")
REFUSED = ("authorization violation", "authentication revoked", "authentication expired", NO_CREDENTIAL)

_log: Any = structlog.get_logger()


class LinkDown(Exception):
    """Not connected (or too much is unsent): nothing is sent, or no answer can come any more."""


class LinkTimeout(Exception):
    """No answer came in time; whether the request was carried out is unknown."""


class NoResponders(Exception):
    """Nobody listens on the subject: the request reached no one."""


class Reply(NamedTuple):
    """An answer."""

    data: bytes
    headers: dict[str, str] | None


class Subscription:
    """What `subscribe` returns; `close()` ends it, at once and for good."""

    def __init__(self, link: "Link", subject: str, callback: Callable[[Received], None]) -> None:
        self.subject = subject
        self._link = link
        self._callback = callback
        self._active = True
        self.number = 0
        """Among those of the present connection; 0 before the first."""

    def deliver(self, message: Received) -> None:
        """Hand a message to the callback; a failing callback is a bug that must not end the others."""
        if not self._active:
            return
        try:
            self._callback(message)
        except Exception:  # noqa: BLE001 - whatever it is, it is the callback's
            _log.exception("link.callback_failed", link=self._link.name, subject=message.subject)

    def close(self) -> None:
        """No message is delivered after this."""
        if self._active:
            self._active = False
            self._link.forget(self)


class Link:
    """A connection that comes back. Make one with `Link.open`. Not thread-safe: one event loop."""

    def __init__(
        self, url: str, credential: Credential, name: str, inbox_prefix: str = "", trust: Trust | None = None
    ) -> None:
        self.url = url
        self._ways, self._trust = _ways(url), trust or Trust()
        self.name = name
        self.last_error = ""
        """Why the last attempt or connection failed."""
        self._credential = credential
        self._prefix = inbox_prefix or "_INBOX"
        self._inbox = self.new_inbox()
        self._client: NatsClient | None = None
        self._up = asyncio.Event()
        self._closing = False
        self._waiters: list[asyncio.Future[None]] = []
        self._subscriptions: dict[int, Subscription] = {}
        self._listeners: list[Callable[[bool], None]] = []
        self._pending: dict[str, asyncio.Future[Received]] = {}
        self._token = 0
        self._tasks: list[asyncio.Task[None]] = []

    @classmethod
    async def open(
        cls,
        url: str,
        credential: Credential,
        name: str,
        inbox_prefix: str = "",
        wait_s: float | None = OPEN_S,
        trust: Trust | None = None,
    ) -> "Link":
        """A link to `url` as the user of `credential`, each time with its newest JWT. `name`: for the server's log.
        `trust`: whom to believe behind tls:// and wss:// [those that the system does]. Of several URLs, comma between,
        those over TCP and those over WebSocket are tried in turn, and what worked is tried first.

        Waits up to `wait_s` seconds to be connected (None: for ever; 0: not at all, the link goes on trying).
        Raises LinkDown with the reason of the last failure, at once when the server refuses the user.
        """
        link = cls(url, credential, name, inbox_prefix, trust)
        await link._start(wait_s)
        return link

    async def _start(self, wait_s: float | None) -> None:
        inbox = Subscription(self, f"{self._inbox}.*", self._answered)
        self._subscriptions[id(inbox)] = inbox
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._supervise(), name=f"link {self.name}")]
        if wait_s == 0:
            return
        try:
            async with asyncio.timeout(wait_s):
                while not self._up.is_set() and not (self.refused and wait_s is not None):
                    await self._changed()
        except TimeoutError:
            pass
        except BaseException:
            await self.close()
            raise
        if not self._up.is_set():
            await self.close()
            raise LinkDown(f"no NATS at {self.url} for {self.name}: {self.last_error or 'no answer'}")

    def use(self, credential: Credential) -> None:
        """Be this user from the next connection on."""
        self._credential = credential

    # State

    @property
    def connected(self) -> bool:
        """Whether messages can be sent now."""
        return self._up.is_set()

    @property
    def closed(self) -> bool:
        """Whether `close` was called: it will not come back."""
        return self._closing

    @property
    def refused(self) -> bool:
        """Whether the server does not accept our key or JWT (any more); the link goes on trying."""
        return not self.connected and any(words in self.last_error.lower() for words in REFUSED)

    @property
    def server_id(self) -> str:
        """The id of the server it is connected to; empty while down."""
        return self._client.server_id if self._client and self.connected else ""

    async def wait_connected(self) -> None:
        """Return once connected. Raises LinkDown when the link was closed."""
        while not self._up.is_set():
            if self._closing:
                raise LinkDown(f"the link {self.name} is closed")
            await self._changed()

    async def _changed(self) -> None:
        """Return after the next change: up, down, failed again, closed."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        await waiter

    def on_state(self, callback: Callable[[bool], None]) -> Callable[[], None]:
        """Call `callback(connected)` at each change from now on; a function that ends this."""
        self._listeners.append(callback)

        def end() -> None:
            with contextlib.suppress(ValueError):
                self._listeners.remove(callback)

        return end

    def new_inbox(self) -> str:
        """A subject that nobody can guess, below this link's inbox prefix."""
        return f"{self._prefix}.{secrets.token_hex(INBOX_BYTES)}"

    # Sending

    def send(self, subject: str, data: bytes, reply: str = "", headers: dict[str, str] | None = None) -> None:
        """Send without waiting, in order with everything else sent. Raises LinkDown, also when too much is unsent."""
        client = self._client
        if client is None or not self._up.is_set():
            raise self._down()
        if len(data) > DATA_BYTES_MAX:
            raise ValueError(f"a message for {subject} has {len(data)} bytes; NATS carries {DATA_BYTES_MAX} at most")
        if not SUBJECT.fullmatch(subject) or (reply and not SUBJECT.fullmatch(reply)):
            raise ValueError(f"not a subject: {subject!r} or {reply!r}; tokens with dots between, without blanks")
        if client.unsent > UNSENT_BYTES_MAX:
            raise LinkDown(f"{self.name}: {client.unsent} bytes wait to be sent already")
        client.publish(subject, data, reply, headers)

    async def publish(self, subject: str, data: bytes, reply: str = "", headers: dict[str, str] | None = None) -> None:
        """Send, and wait until little is unsent. Raises LinkDown."""
        self.send(subject, data, reply, headers)
        if self._client is not None:
            try:
                await self._client.drained()
            except NatsError as error:
                raise LinkDown(f"{self.name}: {error}") from error

    async def request(
        self, subject: str, data: bytes, timeout_s: float, headers: dict[str, str] | None = None
    ) -> Reply:
        """Ask, and wait for one answer. Raises LinkDown, LinkTimeout or NoResponders."""
        loop = asyncio.get_running_loop()
        self._token += 1
        token = str(self._token)
        future: asyncio.Future[Received] = loop.create_future()
        self.send(subject, data, f"{self._inbox}.{token}", headers)
        self._pending[token] = future
        timer = loop.call_later(timeout_s, _expire, future, subject, timeout_s)
        try:
            answer = await future
        finally:
            timer.cancel()
            self._pending.pop(token, None)
        if answer.status == NO_RESPONDERS:
            raise NoResponders(f"nobody listens on {subject}")
        return Reply(answer.data, answer.headers)

    def _answered(self, message: Received) -> None:
        future = self._pending.get(message.subject.rpartition(".")[2])
        if future is not None and not future.done():
            future.set_result(message)

    def _down(self) -> LinkDown:
        return LinkDown(f"{self.name} is not connected to {self.url}: {self.last_error or 'connecting'}")

    # Receiving

    async def subscribe(self, subject: str, callback: Callable[[str, str, bytes], None]) -> Subscription:
        """Call `callback(subject, reply, data)` for each message, in order; it must not block.

        In force when this returns while connected, and from each connection on. Raises LinkDown when closed.
        """
        return await self.subscribe_raw(subject, lambda m: callback(m.subject, m.reply, m.data))

    async def subscribe_raw(self, subject: str, callback: Callable[[Received], None]) -> Subscription:
        """As `subscribe`, with headers and status."""
        if self._closing:
            raise LinkDown(f"the link {self.name} is closed")
        if not SUBJECT.fullmatch(subject):
            raise ValueError(f"not a subject: {subject!r}; tokens with dots between, without blanks")
        subscription = Subscription(self, subject, callback)
        self._subscriptions[id(subscription)] = subscription
        client = self._client
        if client is not None and self.connected:
            try:
                self._attach(client, subscription)
                await client.flush()
            except NatsError as error:
                # The next connection has it: this one is about to be replaced.
                self._trouble(error)
                client.closed.set()
        return subscription

    def _attach(self, client: NatsClient, subscription: Subscription) -> None:
        subscription.number = client.subscribe(subscription.subject, subscription.deliver)

    def forget(self, subscription: Subscription) -> None:
        """Drop a closed subscription (see `Subscription.close`)."""
        self._subscriptions.pop(id(subscription), None)
        if subscription.number and self._client is not None:
            self._client.unsubscribe(subscription.number)

    # Supervision

    async def _supervise(self) -> None:
        """Connect, serve until it breaks, and again."""
        failures, said = 0, set[str]()
        while not self._closing:
            client = NatsClient(self._trouble)
            try:
                await client.connect(self._ways[0], self._credential, self.name, self._trust)
                for subscription in list(self._subscriptions.values()):
                    self._attach(client, subscription)
                await client.flush()
                if self._closing:
                    return  # nats-py waits in a way that can lose the cancellation
                failures = 0
                said.clear()
                await self._serve(client)
            except NatsError as error:
                failures += 1
                if str(error) not in said:
                    said.add(str(error))
                    _log.warning("link.connect_failed", link=self.name, url=self._ways[0], error=str(error))
                self.last_error = str(error)
                if not self.refused:
                    self._ways.append(self._ways.pop(0))
            except Exception as error:  # noqa: BLE001 - a bug in nats-py must not leave the link down for ever
                failures += 1
                _log.exception("link.failed", link=self.name)
                self.last_error = str(error)
            finally:
                self._went_down()
                self._wake_waiters()
                await client.close()
            pause = min(RETRY_S_MAX, RETRY_S_MIN * 2 ** min(failures, 10))
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))

    async def _serve(self, client: NatsClient) -> None:
        self._client = client
        self._up.set()
        _log.debug("link.up", link=self.name, url=self.url)
        self._tell(True)
        try:
            while client.usable:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(HEALTH_S):
                        await client.closed.wait()
        finally:
            client.closed.set()

    def _went_down(self) -> None:
        was_up = self._up.is_set()
        self._up.clear()
        self._client = None
        for future in self._pending.values():
            if not future.done():
                future.set_exception(self._down())
        if was_up:
            if not self._closing:
                _log.warning("link.down", link=self.name, url=self.url, error=self.last_error)
            self._tell(False)

    def _tell(self, connected: bool) -> None:
        self._wake_waiters()
        for listener in list(self._listeners):
            try:
                listener(connected)
            except Exception:  # noqa: BLE001 - whatever it is, it is the listener's
                _log.exception("link.listener_failed", link=self.name)

    def _trouble(self, error: Exception) -> None:
        """Errors that nats-py reports aside: permissions, slow consumers, the end of the connection."""
        text = error_text(error)
        if self.connected and text != self.last_error:
            _log.warning("link.trouble", link=self.name, error=text)
        self.last_error = text

    async def close(self) -> None:
        """Send what waits (for 2 s at most), hang up, and fail whatever still waits for an answer."""
        if not self._closing:
            self._closing = True
            with contextlib.suppress(TimeoutError, NatsError):
                async with asyncio.timeout(CLOSE_S):
                    if self._client is not None and self.connected:
                        await self._client.flush()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._wake_waiters()

    def _wake_waiters(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)


def _ways(url: str) -> list[str]:
    """The URLs in `url` by how they connect, each way as NatsClient takes it."""
    urls = [one.strip() for one in url.split(",")]
    ways = [",".join(one for one in urls if is_web(one) == web) for web in (False, True)]
    return [way for way in ways if way]


def _expire(future: "asyncio.Future[Received]", subject: str, timeout_s: float) -> None:
    if not future.done():
        future.set_exception(LinkTimeout(f"no answer on {subject} within {timeout_s:g} s"))
