"""The worker's NATS JWT: kept in its state folder, renewed over HTTP long before it ends, and whenever NATS refuses it.

What counts is the platform's time, which every answer tells: the worker's own clock may be off by years.
"""

import asyncio
import base64
import random
import secrets
import time
from pathlib import Path

import msgspec
import structlog

from events.base import WorkerId
from infra.credential import Credential
from infra.folder import write_atomic
from infra.link import Link
from infra.nats_jwt import BadJwt, read_user
from infra.nkey import Signer
from infra.renewal import PATH, STALE, CredentialAnswer, CredentialBody, sign
from worker.api import Api, Unavailable

RENEW_PART = (0.5, 2 / 3)
"""When of its life a JWT is renewed: somewhere between, so that many do not ask at once."""
RETRY_S_MIN, RETRY_S_MAX = 1.0, 60.0
FIRST_S = 5.0
"""How long an agent without a JWT waits for one before it goes on to try."""
LOOK_S = 0.5
TELL_S = 5.0
NONCE_BYTES = 16
JWT_NAME = "worker.jwt"
OK = 200

_log = structlog.get_logger()


class _Problem(msgspec.Struct, frozen=True, gc=False):
    type: str = ""
    title: str = ""
    detail: str = ""
    now: int = 0


_answer_of = msgspec.json.Decoder(CredentialAnswer).decode
_problem_of = msgspec.json.Decoder(_Problem).decode
_encode = msgspec.json.Encoder().encode


class _Refused(Exception):
    """The platform answered, and gives none; the text says why."""


class WorkerCredential:
    """The JWT of one worker. `credential` is for its link; `await run(link)` keeps it good until cancelled."""

    def __init__(self, worker: WorkerId, seed: str, state: Path, api: Api) -> None:
        self._worker, self._api = worker, api
        self._signer = Signer(seed)
        self._file = state / "keys" / JWT_NAME
        self._ahead_ms = 0
        """How far the platform's clock is ahead of ours."""
        self._renew_at = 0.0
        self._jwt = self._kept()
        self.said = ""
        """Why there is no new one; "" when there is."""
        self.credential = Credential(seed, lambda: self._jwt)

    async def first(self) -> None:
        """Get one if there is none yet; without success within FIRST_S, `run` goes on trying."""
        if not self._jwt:
            await self._try()

    async def run(self, link: Link) -> None:
        """Ask for a new one when it is time, or NATS refuses what there is; after 1 s growing to a minute, with jitter."""
        pause = RETRY_S_MIN
        while True:
            if link.refused or self._due():
                await self._try()
                await asyncio.sleep(random.uniform(0.5, 1.0) * pause)
                pause = min(RETRY_S_MAX, pause * 2)
                continue
            if link.connected:
                pause = RETRY_S_MIN
            await asyncio.sleep(LOOK_S)

    async def tell(self, link: Link) -> None:
        """Say it when the platform cannot be reached, or does not let this worker in."""
        told = ""
        while True:
            await asyncio.sleep(TELL_S)
            if link.connected:
                told = ""
                continue
            how = "refused" if link.refused else "unreachable"
            if how != told:
                told = how
                remedy = "enrol it; asking again until then" if link.refused else "trying again until it is"
                why = (link.refused and self.said) or link.last_error
                _log.warning("worker.platform_" + how, url=link.url, why=why, then=remedy)

    def _due(self) -> bool:
        return time.monotonic() >= self._renew_at

    async def _try(self) -> None:
        try:
            async with asyncio.timeout(FIRST_S):
                await self._renew()
        except (Unavailable, _Refused, TimeoutError) as error:
            why = str(error) or f"no answer within {FIRST_S:g} s"
            if why != self.said:
                _log.warning("worker.no_credential", why=why)
            self.said = why
        else:
            self.said = ""

    async def _renew(self) -> None:
        status, body = await self._ask()
        problem = _problem(status, body)
        if problem is not None and problem.type.endswith(f":{STALE}") and problem.now:
            self._ahead_ms = problem.now - _now()
            status, body = await self._ask()
            problem = _problem(status, body)
        if problem is not None:
            raise _Refused(f"{status} {problem.detail or problem.title}")
        try:
            answer = _answer_of(body)
            self._use(answer.jwt, answer.expires_at - answer.now)
        except (msgspec.DecodeError, BadJwt) as error:
            raise _Refused(f"the answer is no credential: {error}") from None
        self._ahead_ms = answer.now - _now()
        await asyncio.to_thread(write_atomic, self._file, answer.jwt.encode())

    async def _ask(self) -> tuple[int, bytes]:
        at, nonce = _now() + self._ahead_ms, secrets.token_urlsafe(NONCE_BYTES)
        signature = base64.b64encode(sign(self._worker, self._signer, at, nonce)).decode()
        body = CredentialBody(self._worker, self._signer.public_key, at, nonce, signature)
        return await self._api.post(PATH, _encode(body))

    def _use(self, jwt: str, left_ms: float) -> None:
        """Take this one from now on. Raises BadJwt when it is not ours."""
        if read_user(jwt).sub != self._signer.public_key:
            raise BadJwt("it is another key's")
        self._jwt = jwt
        self._renew_at = time.monotonic() + max(0.0, left_ms / 1000 * random.uniform(*RENEW_PART))

    def _kept(self) -> str:
        """What an agent before left here. Should our clock say that it is over, it is offered to NATS all the same."""
        try:
            jwt = self._file.read_text().strip()
            claims = read_user(jwt)
        except (OSError, ValueError):
            return ""
        if claims.sub != self._signer.public_key:
            return ""
        now_s, life_s = _now() / 1000, claims.exp - claims.iat
        if claims.iat <= now_s:
            self._renew_at = time.monotonic() + claims.iat + life_s * random.uniform(*RENEW_PART) - now_s
        return jwt


def _problem(status: int, body: bytes) -> _Problem | None:
    """What is wrong, when it is not an answer."""
    if status == OK:
        return None
    try:
        return _problem_of(body)
    except msgspec.DecodeError:
        return _Problem(title="no problem document")


def _now() -> int:
    return time.time_ns() // 1_000_000
