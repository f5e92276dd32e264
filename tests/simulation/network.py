"""A network in memory: subjects and requests as NATS has them, with loss, duplication, delay and partitions."""

import asyncio
from collections.abc import Callable
from random import Random

from events.log import matches
from infra.link import LinkDown, LinkTimeout, NoResponders, Reply

Callback = Callable[[str, str, bytes], None]


class Weather:
    """How bad it is. Chances from 0 to 1, times in seconds."""

    def __init__(self) -> None:
        self.loss = self.twice = 0.0
        self.delay_s = 0.001
        self.slow = 0.0
        """The chance that a message takes up to a hundred times as long: others overtake it."""


class Subscription:
    def __init__(self, net: "Net", link: "SimLink", pattern: str, callback: Callback) -> None:
        self.net, self.link, self.pattern, self.callback = net, link, pattern, callback

    def close(self) -> None:
        if self in self.net.subscriptions:
            self.net.subscriptions.remove(self)


class Net:
    """Everyone's connection to everyone."""

    def __init__(self, random: Random) -> None:
        self.random, self.weather = random, Weather()
        self.subscriptions: list[Subscription] = []
        self.failed: list[BaseException] = []
        self.inboxes = 0

    def send(self, source: "SimLink", subject: str, reply: str, data: bytes) -> int:
        """Pass a message on; how many listen."""
        listening = [one for one in self.subscriptions if matches(one.pattern, subject)]
        for one in listening:
            for _ in range(1 + (self.random.random() < self.weather.twice)):
                if self.random.random() >= self.weather.loss:
                    self._pass(source, one, subject, reply, data)
        return len(listening)

    def _pass(self, source: "SimLink", to: Subscription, subject: str, reply: str, data: bytes) -> None:
        delay = self.random.uniform(0.1, 1.0) * self.weather.delay_s
        if self.random.random() < self.weather.slow:
            delay *= 100
        asyncio.get_running_loop().call_later(delay, self._deliver, source, to, subject, reply, data)

    def _deliver(self, source: "SimLink", to: Subscription, subject: str, reply: str, data: bytes) -> None:
        if to not in self.subscriptions or source.cut or to.link.cut:
            return
        if to.link.paused is not None:
            to.link.paused.append(lambda: self._deliver(source, to, subject, reply, data))
            return
        try:
            to.callback(subject, reply, data)
        except BaseException as error:  # noqa: BLE001 - a failing callback fails the run
            self.failed.append(error)


class SimLink:
    """What `infra.link.Link` is to the parts of a control plane and of a worker."""

    def __init__(self, net: Net, name: str) -> None:
        self.net, self.name = net, name
        self.connected = True
        self.cut = False
        self.paused: list[Callable[[], None]] | None = None
        self._inbox = f"_INBOX.{name}"

    def cut_off(self, noticed: bool) -> None:
        """Nothing comes through any more; `noticed`: and this end knows."""
        self.cut, self.connected = True, not noticed

    def pause(self) -> None:
        """This end stands still: what comes and goes waits."""
        self.paused, self.connected = [], False

    def heal(self) -> None:
        self.cut, self.connected = False, True
        waiting, self.paused = self.paused or [], None
        for one in waiting:
            one()

    async def wait_connected(self) -> None:
        while not self.connected:
            await asyncio.sleep(0.05)

    def send(self, subject: str, data: bytes, reply: str = "") -> None:
        if self.paused is not None:
            self.paused.append(lambda: self.send(subject, data, reply))
            return
        if not self.connected:
            raise LinkDown(self.name)
        self.net.send(self, subject, reply, data)

    async def request(self, subject: str, data: bytes, timeout_s: float) -> Reply:
        self.net.inboxes += 1
        inbox = f"{self._inbox}.{self.net.inboxes}"
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        def answered(subject: str, reply: str, data: bytes) -> None:
            if not answer.done():
                answer.set_result(data)

        subscription = await self.subscribe(inbox, answered)
        try:
            if not self.connected:
                raise LinkDown(self.name)
            if not self.net.send(self, subject, inbox, data):
                raise NoResponders(subject)
            async with asyncio.timeout(timeout_s):
                return Reply(await answer, None)
        except TimeoutError:
            raise LinkTimeout(subject) from None
        finally:
            subscription.close()

    async def subscribe(self, subject: str, callback: Callback) -> Subscription:
        subscription = Subscription(self.net, self, subject, callback)
        self.net.subscriptions.append(subscription)
        return subscription
