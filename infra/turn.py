"""Whose turn it is to lead a subject: a hint over core NATS. The log's guard protects the data; this only saves work.

The leader says so on `lead.<subject>` a few times a second. Who follows waits until nothing was said for a while; at
start it asks first, so that a pool without a leader has one at once.
"""

import asyncio
import contextlib
import random

from infra.link import Link, LinkDown, LinkTimeout, NoResponders

BEACON_S = 0.3
SILENCE_S = 1.0
ASK_S = 0.25


class BeaconTurn:
    """One process' view of who leads `subject`."""

    def __init__(self, link: Link, subject: str, name: str) -> None:
        self._link, self._subject, self._name = link, f"lead.{subject}", name
        self._leads = False
        self._heard = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._started = False

    async def start(self) -> None:
        """Listen, from now until the link closes."""
        await self._link.subscribe(self._subject, self._said)
        await self._link.subscribe(f"{self._subject}.who", self._asked)
        self._task = asyncio.create_task(self._say())

    async def stop(self) -> None:
        """Say nothing more."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def _said(self, subject: str, reply: str, data: bytes) -> None:
        if data != self._name.encode():
            self._heard.set()

    def _asked(self, subject: str, reply: str, data: bytes) -> None:
        if self._leads:
            with contextlib.suppress(LinkDown):
                self._link.send(reply, self._name.encode())

    async def _say(self) -> None:
        while True:
            if self._leads:
                with contextlib.suppress(LinkDown):
                    self._link.send(self._subject, self._name.encode())
            await asyncio.sleep(BEACON_S)

    async def wait(self) -> None:
        """Returns when nobody was heard to lead for a while."""
        if not self._started:
            self._started = True
            if await self._nobody():
                return
        while True:
            await self._link.wait_connected()
            self._heard.clear()
            try:
                async with asyncio.timeout(SILENCE_S * random.uniform(1.0, 1.3)):
                    await self._heard.wait()
                await asyncio.sleep(BEACON_S)
            except TimeoutError:
                if self._link.connected:
                    return

    async def _nobody(self) -> bool:
        try:
            await self._link.request(f"{self._subject}.who", b"", ASK_S)
        except (LinkTimeout, NoResponders):
            return True
        except LinkDown:
            return False
        return False

    def take(self) -> None:
        """This one leads now."""
        self._leads = True
        with contextlib.suppress(LinkDown):
            self._link.send(self._subject, self._name.encode())

    def leave(self) -> None:
        """This one leads no more."""
        self._leads = False
