"""The two streams: made when missing, and their settings checked again and again.

EVENTS is the record: nothing may ever drop out of it. TELEMETRY may vanish and nothing stops. A limit can still be
changed under a running hive, so a drift is looked for every minute, and each setting that differs is named.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

import msgspec
import structlog

from infra.link import Link, LinkDown, LinkTimeout, NoResponders
from infra.nats_client import Received
from infra.nats_log import EVENTS_STREAM

TELEMETRY_STREAM = "TELEMETRY"
API_S = 10.0
WATCH_S = 60.0
CLOCK_OFF_S_MAX = 5.0
GATHER_S = 5.0
STALL_S = 0.3
SECOND = 1_000_000_000
DAY = 24 * 3600 * SECOND
EVENT_MESSAGE_BYTES_MAX = 1024 * 1024
TELEMETRY_BYTES_MAX = 256 * 1024 * 1024
CONSUMERS_MAX = 200
DUPLICATE_WINDOW = SECOND // 10
"""Message ids are not used; the server's smallest window keeps no memory for them."""
STREAM_NOT_FOUND = 10059

_log: Any = structlog.get_logger()
_encode = msgspec.json.Encoder().encode
_object_of = msgspec.json.Decoder(dict[str, Any]).decode

EVENTS_CONFIG: dict[str, Any] = {
    "name": EVENTS_STREAM,
    "subjects": ["evt.>"],
    "storage": "file",
    "retention": "limits",
    "discard": "new",
    "compression": "s2",
    "max_msgs": -1,
    "max_bytes": -1,
    "max_age": 0,
    "max_msgs_per_subject": -1,
    "max_msg_size": EVENT_MESSAGE_BYTES_MAX,
    "max_consumers": CONSUMERS_MAX,
    "duplicate_window": DUPLICATE_WINDOW,
    "allow_direct": True,
    "deny_delete": True,
    "deny_purge": True,
    "allow_rollup_hdrs": False,
    "allow_msg_ttl": False,
    "sealed": False,
}
TELEMETRY_CONFIG: dict[str, Any] = {
    "name": TELEMETRY_STREAM,
    "subjects": ["hb.>"],
    "storage": "file",
    "retention": "limits",
    "discard": "old",
    "compression": "s2",
    "max_msgs": -1,
    "max_bytes": TELEMETRY_BYTES_MAX,
    "max_age": 7 * DAY,
    "max_consumers": CONSUMERS_MAX,
    "duplicate_window": DUPLICATE_WINDOW,
    "persist_mode": "async",
    "num_replicas": 1,
    "no_ack": True,
}
FIXED = frozenset({"storage", "retention", "compression", "max_consumers", "deny_delete", "deny_purge", "persist_mode"})
"""Settings that a stream keeps for life, or that cannot be given back."""


class _StoreConfig(msgspec.Struct, frozen=True):
    sync_always: bool = False


class _Store(msgspec.Struct, frozen=True):
    config: _StoreConfig | None = None


class _Cluster(msgspec.Struct, frozen=True):
    urls: list[str] = []


class _Varz(msgspec.Struct, frozen=True):
    jetstream: _Store = _Store()
    cluster: _Cluster = _Cluster()


class _Server(msgspec.Struct, frozen=True):
    name: str


class _Answer(msgspec.Struct, frozen=True):
    """A server's answer about itself: the few fields looked at."""

    server: _Server
    data: _Varz


_answer_of = msgspec.json.Decoder(_Answer).decode


class StreamDrift(Exception):
    """Streams are not set as the hive needs; the text names each setting, what was found and wanted, and the remedy."""


class UnsafeDurability(Exception):
    """A NATS server acknowledges before its disk has the data."""


class ClockOff(Exception):
    """This machine's clock and the NATS server's differ by too much to lead."""


class StreamsUnavailable(Exception):
    """JetStream does not answer, or refused to make a stream."""


def wanted(replicas: int = 1) -> tuple[dict[str, Any], ...]:
    """The streams' settings, with `replicas` copies of each event."""
    return ({**EVENTS_CONFIG, "num_replicas": replicas}, TELEMETRY_CONFIG)


async def ensure(link: Link, replicas: int = 1) -> None:
    """Make the streams that are missing and check the others. Raises StreamDrift or StreamsUnavailable."""
    problems: list[str] = []
    for config in wanted(replicas):
        found = await _config_of(link, config["name"])
        if found is None:
            found = await _create(link, config)
            _log.info("streams.created", stream=config["name"])
        problems += drift(config, found)
    if problems:
        raise StreamDrift("\n".join(problems))


async def check(link: Link, replicas: int = 1) -> None:
    """Check that the streams are there and set as wanted. Raises StreamDrift or StreamsUnavailable."""
    problems: list[str] = []
    for config in wanted(replicas):
        found = await _config_of(link, config["name"])
        if found is None:
            problems.append(f"stream {config['name']} is gone; restore the NATS store from a backup")
        else:
            problems += drift(config, found)
    if problems:
        raise StreamDrift("\n".join(problems))


def drift(config: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """One line for each setting of a stream that is not as wanted."""
    lines: list[str] = []
    for setting, want in config.items():
        have = found.get(setting, _absent(want))
        if have != want:
            remedy = (
                "it cannot be changed on a stream that exists: start with another data folder, or restore a backup"
                if setting in FIXED
                else f"set it back with `nats stream edit {config['name']}`"
            )
            lines.append(f"stream {config['name']}: `{setting}` is {have!r}, wanted {want!r}; {remedy}")
    return lines


def _absent(want: Any) -> Any:
    """What the server means by leaving a setting out."""
    if isinstance(want, bool):
        return False
    return 0 if isinstance(want, int) else ""


async def watch(
    link: Link, replicas: int = 1, on_drift: Callable[[str], None] | None = None, every_s: float = WATCH_S
) -> None:
    """Check again for ever; each drift is logged and told to `on_drift`, once while it stays ("" when it is over)."""
    said = ""
    while True:
        await asyncio.sleep(every_s)
        try:
            await check(link, replicas)
            await check_clock(link)
            problem = ""
        except (StreamDrift, ClockOff) as error:
            problem = str(error)
        except StreamsUnavailable:
            continue
        if problem != said:
            said = problem
            _log.error("streams.drift", problem=problem) if problem else _log.info("streams.well")
            if on_drift is not None:
                on_drift(problem)


async def check_clock(link: Link) -> None:
    """Compare this machine's clock with the one that stamps the messages. Raises ClockOff or StreamsUnavailable."""
    before = time.time()
    answer = await _api(link, f"$JS.API.STREAM.INFO.{EVENTS_STREAM}", b"")
    here = (before + time.time()) / 2
    if not (stamp := answer.get("ts")):
        return  # a server before 2.10 does not say
    off = here - datetime.fromisoformat(stamp).timestamp()
    if abs(off) > CLOCK_OFF_S_MAX:
        raise ClockOff(
            f"this machine's clock is {abs(off):.0f} s {'ahead of' if off > 0 else 'behind'} the NATS server's; "
            f"at most {CLOCK_OFF_S_MAX:g} s are allowed, since every event is dated here: set the clock (NTP)"
        )


async def _config_of(link: Link, stream: str) -> dict[str, Any] | None:
    answer = await _api(link, f"$JS.API.STREAM.INFO.{stream}", b"")
    if (error := answer.get("error")) is None:
        return dict(answer["config"])
    if error.get("err_code") == STREAM_NOT_FOUND:
        return None
    raise StreamsUnavailable(f"stream {stream}: {error.get('description', error)}")


async def _create(link: Link, config: dict[str, Any]) -> dict[str, Any]:
    answer = await _api(link, f"$JS.API.STREAM.CREATE.{config['name']}", _encode(config))
    if error := answer.get("error"):
        raise StreamsUnavailable(f"stream {config['name']} was refused: {error.get('description', error)}")
    return dict(answer["config"])


async def _api(link: Link, subject: str, body: bytes) -> dict[str, Any]:
    try:
        return _object_of((await link.request(subject, body, API_S)).data)
    except NoResponders:
        raise StreamsUnavailable(f"the NATS at {link.url} has no JetStream for this user; enable it there") from None
    except (LinkDown, LinkTimeout, msgspec.DecodeError) as error:
        raise StreamsUnavailable(f"JetStream does not answer: {error}") from error


async def check_durability(sys_link: Link, unsafe: bool = False) -> None:
    """Ask every server, over a link of a SYS user, whether it acknowledges only what is on its disk.

    Raises UnsafeDurability naming those that do not (with `unsafe`, they are only logged), or StreamsUnavailable.
    """
    servers = await _gather(sys_link, "$SYS.REQ.SERVER.PING.VARZ")
    if not servers:
        raise StreamsUnavailable(f"no server answered for its settings at {sys_link.url}; is the seed a SYS user's?")
    slack = [name for name, varz in servers.items() if _acknowledges_early(varz)]
    if not slack:
        return
    text = (
        f"NATS server {', '.join(sorted(slack))} acknowledges before its disk has the data, so a power cut loses "
        "acknowledged work; set `jetstream { sync_interval: always }` in its configuration, "
        "or accept the loss with --unsafe-durability"
    )
    if not unsafe:
        raise UnsafeDurability(text)
    _log.warning("streams.unsafe_durability", problem=text)


def _acknowledges_early(varz: _Varz) -> bool:
    # A server without JetStream acknowledges nothing.
    store = varz.jetstream.config
    return store is not None and not store.sync_always


async def _gather(link: Link, subject: str) -> dict[str, _Varz]:
    """The answers of all servers, by server name. Servers are not counted: the gathering ends when they fall silent."""
    found: dict[str, _Varz] = {}
    heard = asyncio.Event()

    def answered(message: Received) -> None:
        with contextlib.suppress(msgspec.DecodeError):
            answer = _answer_of(message.data)
            found[answer.server.name] = answer.data
        heard.set()

    inbox = link.new_inbox()
    subscription = await link.subscribe_raw(inbox, answered)
    try:
        link.send(subject, b"", inbox)
        wait_s = GATHER_S
        while True:
            heard.clear()
            async with asyncio.timeout(wait_s):
                await heard.wait()
            if any(not varz.cluster.urls for varz in found.values()):
                return found
            wait_s = STALL_S
    except (TimeoutError, LinkDown):
        return found
    finally:
        subscription.close()
