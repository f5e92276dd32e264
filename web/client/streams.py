"""Follows a stream of server-sent events, and comes back to it after a break where it was."""

import time
from collections.abc import AsyncGenerator, Callable
from typing import TypeVar

from aiohttp import StreamReader

from web.client.errors import Broken, Unavailable, of_answer
from web.client.http import BROKEN, Http, Query, Retry, unreachable
from web.client.sse import Sse, events

LIVED_S = 5.0
"""A stream that lasted so long was a good one, also when it said nothing. One that breaks at once is tried ever more
rarely.
"""


Told = TypeVar("Told")
EVENTS = "text/event-stream"


async def follow(http: Http, path: str, query: Query, end: str | None) -> AsyncGenerator[Sse]:
    """The server-sent events; see `follow_as`."""

    async def read(content: StreamReader) -> AsyncGenerator[tuple[Sse, None]]:
        async for event in events(content):
            yield event, None

    async for event, _ in follow_as(http, path, query, end, EVENTS, read):
        yield event


async def follow_as(
    http: Http,
    path: str,
    query: Query,
    end: str | None,
    accept: str,
    read: Callable[[StreamReader], AsyncGenerator[tuple[Sse, Told]]],
) -> AsyncGenerator[tuple[Sse, Told]]:
    """What `read` finds in an answer of the type `accept`. `end` names the event after which nothing comes; "": the stream
    just ends; None: it never does.

    Raises HiveError: Unavailable when it could not be read for long.
    """
    retry = Retry(http)
    last = ""
    while True:
        headers = {"Accept": accept, **({"Last-Event-ID": last} if last else {})}
        began, before = time.monotonic(), last
        try:
            async with http.stream(path, query, headers) as answer:
                if answer.content_type != accept:
                    raise Broken(
                        f"the hive answered with {answer.content_type}, not {accept}", remedy="update the older one"
                    )
                async for event, told in read(answer.content):
                    if event.event == "problem":
                        raise of_answer(0, event.data)
                    yield event, told
                    last = event.id or last
                    if end and event.event == end:
                        return
            if end == "":
                return
            raise ConnectionError("the stream ended")
        except BROKEN as trouble:
            away = unreachable(http.url, trouble)
        except Unavailable as error:
            # Said by the hive, perhaps after a while: that while was not a good one.
            away, began = error, time.monotonic()
        except ValueError as error:
            raise Broken(str(error)) from error
        if last != before or time.monotonic() - began > LIVED_S:
            retry.again()
        await retry.pause(away)
