"""`worker run` and `worker join`: an agent on this machine, until Ctrl-C; `worker rekey`: another key for it meanwhile."""

import asyncio
import contextlib
import os
import re
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from infra.tls import Trust, split_pin
from services.cli.context import Context, command
from services.cli.failure import Exit, Failure
from services.cli.options import SIZE
from web.schema import EnrolAnswer

if TYPE_CHECKING:
    from worker.identity import Identity

TOKEN_ENV = "HIVE_TOKEN"


class Enrolment(msgspec.Struct, frozen=True):
    """What enrolling told the worker, where it enrolled, and whom it trusts there from then on."""

    url: str
    answer: EnrolAnswer
    trust: Trust = Trust()


_enrolment_of = msgspec.json.Decoder(Enrolment).decode


def _options(function: Callable[..., Any]) -> Callable[..., Any]:
    """What both commands take."""
    folder = click.Path(file_okay=False, path_type=Path)
    for option in (
        click.option("--nvml-recording", type=click.Path(exists=True, path_type=Path), hidden=True),
        click.option(
            "--gpus",
            default="auto",
            show_default=True,
            envvar="HIVE_GPUS_OFFERED",
            metavar="WHICH",
            help="GPUs to offer: auto (all), none, or numbers and UUIDs with commas between: 0,2.",
        ),
        click.option(
            "--network",
            multiple=True,
            envvar="HIVE_NETWORK",
            metavar="full|HOST",
            help="What tasks may reach when they ask: everything, or these hosts; repeatable [nothing].",
        ),
        click.option(
            "--isolation",
            type=click.Choice(["auto", "bwrap", "none"]),
            default="auto",
            show_default=True,
            envvar="HIVE_ISOLATION",
            help="How processes are shut in: by bubblewrap, where it works or else not at all; or, trusted, not.",
        ),
        click.option(
            "--disk",
            type=SIZE,
            default=0,
            envvar="HIVE_DISK",
            help="What a container's folder may hold, unless it asks [any].",
        ),
        click.option(
            "--packages",
            default="",
            envvar="HIVE_PACKAGES",
            metavar="URL|none",
            help="The index that Python tasks' packages come from [as pip and uv are set up here].",
        ),
        click.option("--memory", type=SIZE, help="Memory to offer, such as 8GiB [nearly all]."),
        click.option("--cpus", type=click.FloatRange(0.001), help="CPUs to offer [all]."),
        click.option("--state", type=folder, help="Folder for its key, cache and spool."),
        click.option(
            "--urls",
            type=click.Choice(("none", "public", "any")),
            default="public",
            show_default=True,
            help="What jobs may have it fetch: nothing, what is on the public internet, or all that it can reach.",
        ),
        click.option("--name", default=socket.gethostname, show_default="this machine's name", help="For people."),
    ):
        function = option(function)
    return function


@command("run", listing=False)
@_options
def run(context: Context, name: str, state: Path | None, **offered: Any) -> int:
    """Run a worker here until Ctrl-C.

    Ctrl-C once finishes what runs, twice stops now. The worker makes a key of its own in its state folder, and enrols
    with it, as yours: the API key is needed for that alone. On other people's machines use `worker join`.
    """
    folder, me = _prepare(context, name, state)
    enrolled = asyncio.run(_enrol(context, folder, me.public_key, name))
    return _work(context, folder, me, enrolled, name, offered)


@command("join", listing=False)
@click.argument("hive", metavar="URL")
@click.argument("token", required=False)
@_options
def join(
    context: Context,
    hive: str,
    token: str | None,
    name: str,
    state: Path | None,
    **offered: Any,
) -> int:
    """Bring this machine into the hive at URL with an enrolment TOKEN, and run a worker here until Ctrl-C.

    Who looks after the hive makes tokens with `hivectl worker token create`. Once it has joined, the token is not needed
    any more: `hivectl worker join URL` runs it again. The token may also be given in HIVE_TOKEN, where other users of
    this machine cannot see it.

    With https:// it is the hive's authority that has the fingerprint in the token, or behind `#` in the URL, or it is not
    the hive: then nothing is sent. What it is trusted by is kept beside the worker's key.
    """
    url, pin = split_pin(hive)
    if not url.startswith(("http://", "https://")):
        raise Failure(f"{hive!r} is not the address of a hive", "write it like https://hive.example.org", Exit.USAGE)
    folder, me = _prepare(context, name, state)
    given = token or os.environ.pop(TOKEN_ENV, "")
    enrolled = asyncio.run(_join(folder, me, url, pin, given, name))
    return _work(context, folder, me, enrolled, name, offered)


@command("rekey")
@click.option("--state", type=click.Path(file_okay=False, path_type=Path), help="Its folder, as of `worker run`.")
@click.option("--name", default=socket.gethostname, show_default="this machine's name", help="As of `worker run`.")
def rekey(context: Context, state: Path | None, name: str) -> None:
    """Give the worker of this machine another key; what runs goes on.

    For when somebody may have seen the old key, which opens nothing from then on. The agent takes the new one within a
    second, or at its next start. Whatever happens meanwhile: the same command again goes on where it was left.
    """
    folder = _state_folder(context, name, state)
    known = _kept(folder)
    if known is None or not (folder / "keys" / "worker.seed").is_file():
        raise Failure(
            f"no worker has a key of its own in {folder}",
            "name its folder with --state; one whose key systemd hands in joins again with another", Exit.USAGE,
        )  # fmt: skip
    public_key = asyncio.run(_rekey(folder, known))
    context.output.line(public_key)
    context.output.note(f"{known.answer.worker} is known by this key now, and its old one opens nothing any more")


async def _rekey(folder: Path, known: Enrolment) -> str:
    """Its new public key. Raises Failure."""
    from worker import rekey as change
    from worker.api import Api, Unavailable
    from worker.signed import AskRefused

    api = Api(known.url, known.trust)
    try:
        return await change.rekey(folder, known.answer.worker, api)
    except AskRefused as error:
        raise Failure(
            f"{known.url} does not give {known.answer.worker} another key: {error}",
            "the key that it has stays; `hivectl worker join` makes a machine known",
        ) from error
    except Unavailable as error:
        raise Failure(f"no hive answers at {known.url} ({error})", "try again", Exit.UNAVAILABLE) from error
    finally:
        await api.close()


async def _finish_rekey(folder: Path) -> None:
    """What a `worker rekey` left undone when it died, as far as it can be done now: the agent sees to the rest."""
    from worker import rekey as change
    from worker.api import Api, Unavailable
    from worker.signed import AskRefused

    if (known := _kept(folder)) is None:
        return
    api = Api(known.url, known.trust)
    with contextlib.suppress(AskRefused, Unavailable):
        await change.finish(folder, known.answer.worker, api)
    await api.close()


def _state_folder(context: Context, name: str, state: Path | None) -> Path:
    return (state or context.folder().path("workers", _folder_name(name))).absolute()


def _prepare(context: Context, name: str, state: Path | None) -> "tuple[Path, Identity]":
    context.serving = True
    from infra.logging import configure
    from worker import identity

    configure(json=not sys.stderr.isatty(), level="debug" if context.debug else "warning")
    folder = _state_folder(context, name, state)
    asyncio.run(_finish_rekey(folder))
    return folder, identity.load_or_create(folder)


def _work(
    context: Context,
    folder: Path,
    me: "Identity",
    enrolled: Enrolment,
    name: str,
    offered: dict[str, Any],
) -> int:
    from services.version import VERSION
    from worker import agent, confine, identity
    from worker.resources import CannotOffer

    for secret in ("HIVE_KEY", TOKEN_ENV):
        os.environ.pop(secret, None)  # no task may find it
    url, told = enrolled.url, enrolled.answer
    context.output.note(f"worker {told.worker} ({name}) joins pool {told.pool} at {url}")
    try:
        options = agent.AgentOptions(
            state=folder,
            worker=told.worker,
            pool=told.pool,
            nats_url=told.nats_url,
            nats_trust=Trust(told.nats_ca or enrolled.trust.ca),
            api_url=url,
            api_trust=enrolled.trust,
            seed=me.seed_path,
            cpus=offered["cpus"] or 0.0,
            memory_bytes=offered["memory"] or 0,
            isolation=offered["isolation"],
            rules=confine.Rules(confine.network_of(offered["network"]), offered["disk"]),
            packages=offered["packages"],
            urls=offered["urls"],
            gpus=offered["gpus"],
            nvml_recording=offered["nvml_recording"],
            version=VERSION,
        )
        return agent.run(options)
    except CannotOffer as error:
        raise Failure(f"GPUs: {error}", "offer others with --gpus, or none", Exit.USAGE) from error
    except identity.StateInUse as error:
        raise Failure(str(error)) from error
    except confine.CannotIsolate as error:
        raise Failure(str(error), "or let tasks run as this user, with --isolation none") from error


def _folder_name(name: str) -> str:
    """A name for people as that of a folder."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", name).lstrip(".")[:100] or "worker"


def _kept(folder: Path) -> Enrolment | None:
    """What an earlier enrolment told, if there was one."""
    try:
        return _enrolment_of((folder / "enrolment.json").read_bytes())
    except (OSError, msgspec.DecodeError):
        return None


def _keep(folder: Path, enrolled: Enrolment) -> None:
    from infra.folder import write_atomic

    write_atomic(folder / "enrolment.json", msgspec.json.encode(enrolled))


async def _enrol(context: Context, folder: Path, public_key: str, name: str) -> Enrolment:
    """Have the hive take this worker in. While it is away, what it answered last time holds."""
    from web.client import Unavailable

    try:
        url, _, trust = context.address()
        async with context.client() as client:
            answer = await client.enrol(public_key, name)
            enrolled = Enrolment(url, answer, await trust.settled(url))
    except (Failure, Unavailable, OSError) as error:
        # Also for want of a key: one that is enrolled needs none, and the hive may just be starting.
        if (known := _kept(folder)) is None:
            raise
        context.output.note(f"not enrolled again ({error}); going on as enrolled at {known.url} before")
        return known
    _keep(folder, enrolled)
    return enrolled


async def _join(folder: Path, me: "Identity", url: str, pin: str, token: str, name: str) -> Enrolment:
    """Join with the token; without one, as joined before. Nothing is sent to who does not show the right authority."""
    from infra.nkey import Signer
    from web.client.access import join as join_

    known = _kept(folder)
    if not token:
        if known is None or known.url != url:
            raise Failure(
                f"this machine has not joined {url} yet, and no token was given",
                "have one made with `hivectl worker token create`", Exit.USAGE,
            )  # fmt: skip
        return known
    trust = await _trusted(url, pin, token)
    signer = Signer(me.seed_path.read_text())
    answer = await join_(url, token, me.public_key, signer.sign, name, trust)
    _keep(folder, enrolled := Enrolment(url, answer, trust))
    return enrolled


async def _trusted(url: str, pin: str, token: str) -> Trust:
    """Whom to trust at `url`: the authority with this fingerprint, or that in the token, or as the environment says."""
    from infra.tls import asked_for, check_private, pin_of
    from services.accounts.keys import pin_in

    check_private(url, os.environ)
    said = pin_of(pin_in(token)) if pin_in(token) else ""
    if said and not url.startswith("https://"):
        raise Failure(f"the token is for a hive with TLS, and {url} has none", "write https://", Exit.USAGE)
    ca, asked = ("", "") if pin or said else asked_for()
    try:
        return await Trust(ca, pin=pin or said or asked).settled(url)
    except OSError as error:
        raise Failure(f"no hive answers at {url} ({error})", "is it running?", Exit.UNAVAILABLE) from error
