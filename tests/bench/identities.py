"""Who may come in, in numbers: how fast machines are taken in and shut out, and what strangers at the door cost others."""

import asyncio
import base64
import json
import secrets
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp

from infra import nkey
from infra.credential import Credential
from infra.folder import Folder
from infra.link import Link
from infra.nats_server import NatsServer
from infra.nkey import Signer
from infra.renewal import PATH, sign
from tests.bench.figures import quantile
from tests.bench.hive import BenchFailed
from tests.knocking import knock
from tests.nats_support import linked, serving, until, worker_linked
from tests.system import System, system

IDENTITIES = 5000
CONNECTIONS = 10_000
IN_FLIGHT = 32
LIVE = 20
ASKED = 200
SAMPLES = 2000
ASK_S = 10.0


class Machine(NamedTuple):
    """A machine that wants to come in."""

    worker: str
    signer: Signer
    seed: str


def new_machine(seed: str = "") -> Machine:
    """One with a key of its own, or with this one."""
    seed = seed or nkey.new_user_seed()
    signer = Signer(seed)
    return Machine(nkey.worker_id_of(signer.public_key), signer, seed)


async def enrolment(count: int) -> dict[str, dict[str, float]]:
    """Machines taken in per second, each with its JWT; how soon one that is let go is disconnected (ms); how long a
    killed control plane needs until it knows them all again (s).
    """
    machines = [new_machine() for _ in range(count)]
    with tempfile.TemporaryDirectory(prefix="hive-bench-", ignore_cleanup_errors=True) as folder:
        async with system(Path(folder)) as hive, aiohttp.ClientSession() as http:
            await hive.plane()
            key = {"Authorization": f"Bearer {hive.folder.admin_key()}"}
            start = time.perf_counter()
            urls = await _each(machines, lambda machine: enrol(http, hive.url(), key, machine))
            enrolled = time.perf_counter()
            jwts = await _each(machines, lambda machine: credential(http, hive.url(), machine))
            end = time.perf_counter()
            rates = {
                "per_s": count / (end - start),
                "enrolled_per_s": count / (enrolled - start),
                "jwts_per_s": count / (end - enrolled),
            }
            waits = [
                await _shut_out(http, hive.url(), key, machine, urls[at], jwts[at])
                for at, machine in enumerate(machines[:LIVE])
            ]
            again = await _restart(hive, http, machines[LIVE:])
            return {
                "taken in": {name: round(value, 1) for name, value in rates.items()},
                "shut out": {"p50_ms": quantile(waits, 0.5), "max_ms": max(waits)},
                "killed and started again": again,
            }


async def _each(machines: list[Machine], do: Any) -> list[str]:
    """What `do` says for each, IN_FLIGHT at once."""
    said, turns = [""] * len(machines), iter(range(len(machines)))

    async def one_after_another() -> None:
        for turn in turns:
            said[turn] = await do(machines[turn])

    await asyncio.gather(*(one_after_another() for _ in range(IN_FLIGHT)))
    return said


async def enrol(http: aiohttp.ClientSession, url: str, key: dict[str, str], machine: Machine) -> str:
    """Where NATS is."""
    body = {"public_key": machine.signer.public_key, "name": "bench"}
    async with http.post(f"{url}/v1/workers", json=body, headers=key) as answer:
        return (await _checked(answer, 201))["nats_url"]


async def credential(http: aiohttp.ClientSession, url: str, machine: Machine) -> str:
    """Its JWT."""
    at, nonce = time.time_ns() // 1_000_000, secrets.token_urlsafe(16)
    signature = base64.b64encode(sign(machine.worker, machine.signer, at, nonce)).decode()
    body = {
        "worker": machine.worker,
        "public_key": machine.signer.public_key,
        "at": at,
        "nonce": nonce,
        "signature": signature,
    }
    async with http.post(url + PATH, json=body) as answer:
        return (await _checked(answer, 200))["jwt"]


async def _checked(answer: aiohttp.ClientResponse, status: int) -> dict[str, str]:
    if answer.status != status:
        raise BenchFailed(f"{answer.method} {answer.url.path}: {answer.status} {await answer.text()}")
    return await answer.json()


async def _shut_out(
    http: aiohttp.ClientSession, url: str, key: dict[str, str], machine: Machine, nats_url: str, jwt: str
) -> float:
    """Milliseconds from asking to let a connected worker go until it is disconnected."""
    link = await Link.open(nats_url, Credential(machine.seed, lambda: jwt), "bench", f"_INBOX_{machine.worker}")
    gone = asyncio.Event()
    link.on_state(lambda connected: gone.set())
    start = time.perf_counter()
    async with http.delete(f"{url}/v1/workers/{machine.worker}", headers=key) as answer:
        if answer.status >= 300:
            raise BenchFailed(f"letting a worker go: {answer.status} {await answer.text()}")
    async with asyncio.timeout(ASK_S):
        await gone.wait()
    waited = (time.perf_counter() - start) * 1000
    await until(lambda: link.refused, "it is refused")
    await link.close()
    return round(waited, 2)


async def _restart(hive: System, http: aiohttp.ClientSession, machines: list[Machine]) -> dict[str, float]:
    """Seconds from SIGKILL until the API answers, and until a sample of all machines has new JWTs."""
    hive.planes[-1].kill()
    hive.planes.pop().wait()
    start = time.perf_counter()
    await hive.plane()
    answers = time.perf_counter() - start
    sample = machines[:: max(1, len(machines) // ASKED)]
    await _each(sample, lambda machine: credential(http, hive.url(), machine))
    return {"api_s": round(answers, 2), "known_s": round(time.perf_counter() - start, 2)}


async def refused(count: int) -> dict[str, dict[str, float]]:
    """What a worker that is let in waits for an answer (ms), with nobody else there and while `count` strangers, 200 at
    once and from another process, try to come in.
    """
    with tempfile.TemporaryDirectory(prefix="hive-bench-") as folder:
        async with (
            serving(Path(folder)) as server,
            linked(server) as platform,
            worker_linked(server) as (worker, link),
        ):
            await platform.subscribe("req.default.*.next", lambda s, r, d: platform.send(r, d))
            subject = f"req.default.{worker}.next"
            idle = [await _ask(link, subject) for _ in range(SAMPLES)]
            program = [sys.executable, "-m", "tests.bench.identities", folder, str(server.port), str(count)]
            start = time.perf_counter()
            knocking = asyncio.create_task(
                asyncio.to_thread(subprocess.run, program, capture_output=True, text=True, check=False)
            )
            busy: list[float] = []
            while not knocking.done():
                busy.append(await _ask(link, subject))
            done = await knocking
            seconds = time.perf_counter() - start
            if done.returncode:
                raise BenchFailed(done.stderr[-2000:])
            ended: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
            if ended.get("let in"):
                raise BenchFailed(f"{ended['let in']} strangers were let in")
            return {
                "alone": {"p50_ms": quantile(idle, 0.5), "p99_ms": quantile(idle, 0.99)},
                "meanwhile": {
                    "p50_ms": quantile(busy, 0.5),
                    "p99_ms": quantile(busy, 0.99),
                    "max_ms": round(max(busy), 3),
                },
                "strangers": {**ended, "per_s": round(count / seconds)},
            }


async def _ask(link: Link, subject: str) -> float:
    start = time.perf_counter()
    await link.request(subject, b"x", ASK_S)
    return (time.perf_counter() - start) * 1000


async def _knock(folder: Path, port: int, count: int) -> None:
    server = NatsServer(Folder(folder))
    server.port = port
    print(json.dumps(await knock(server, count)))


if __name__ == "__main__":
    asyncio.run(_knock(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
