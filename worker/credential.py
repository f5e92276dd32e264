"""The worker's NATS JWT: kept in its state folder, renewed over HTTP long before it ends, and whenever NATS refuses it.
With it comes the key that the hive signs with.

When the worker is given another key, that is asked for with it, and taken for the next connection: what runs goes on.
"""

import asyncio
import base64
import random
import time
from pathlib import Path

import msgspec
import structlog

from events.base import WorkerId
from infra.credential import Credential
from infra.folder import write_atomic
from infra.link import Link
from infra.nats_jwt import BadJwt, read_user
from infra.nkey import BadKey, Signer
from infra.renewal import NOT_ENROLLED, PATH, CredentialAnswer, CredentialBody, sign
from infra.signing_key import BadChain
from worker import signed
from worker.api import Api, Unavailable
from worker.pin import Pin
from worker.rekey import next_seed, promote
from worker.signed import AskRefused, SignedAsk

RENEW_PART = (0.5, 2 / 3)
"""When of its life a JWT is renewed: somewhere between, so that many do not ask at once."""
RETRY_S_MIN, RETRY_S_MAX = 1.0, 60.0
FIRST_S = 5.0
"""How long an agent without a JWT waits for one before it goes on to try."""
LOOK_S = 0.5
TELL_S = 5.0
JWT_NAME = "worker.jwt"

_log = structlog.get_logger()

_answer_of = msgspec.json.Decoder(CredentialAnswer).decode
_encode = msgspec.json.Encoder().encode


class WorkerCredential:
    """The JWT of one worker, whose secret is `seed`, or in that file. `credential` is for its link; `await run(link)` keeps
    it good until cancelled; `signer` signs as it, `pin` knows the hive's key. Raises infra.nkey.BadKey for a damaged seed
    or pin.
    """

    def __init__(self, worker: WorkerId, seed: bytes | Path, state: Path, api: Api) -> None:
        self._worker, self._source, self._ask = worker, seed, SignedAsk(api)
        self._file = state / "keys" / JWT_NAME
        self._seen = self._signature()
        self._link: Link | None = None
        self._renew_at = 0.0
        self._doubted = False
        self.said = ""
        """Why there is no new one; "" when there is."""
        self.pin = Pin(state)
        self.credential = Credential(self.seed(), lambda: self._jwt)
        self.signer = Signer(self.credential.seed)
        self._jwt = self._kept()

    def seed(self) -> str:
        """The worker's secret as it is now."""
        seed = self._source if isinstance(self._source, bytes) else self._source.read_bytes()
        return seed.decode().strip()

    def _signature(self) -> tuple[int, int]:
        """What tells whether the file was replaced."""
        if isinstance(self._source, bytes):
            return 0, 0
        stat = self._source.stat()
        return stat.st_ino, stat.st_mtime_ns

    async def first(self) -> None:
        """Get one if there is none yet; without success within FIRST_S, `run` goes on trying."""
        if not self._jwt or not self.pin.key:
            await self._try()

    def doubt(self) -> None:
        """Something was not signed by the hive as it is known: its key may be another one by now."""
        self._doubted = True

    async def run(self, link: Link) -> None:
        """Ask for a new one when it is time, NATS refuses what there is, there is another key, or the hive's is in doubt;
        after 1 s growing to a minute, with jitter.
        """
        self._link = link
        pause = RETRY_S_MIN
        while True:
            if link.refused or self._due() or self._changed() or self._doubted:
                self._doubted = False
                await self._try()
                await self._wait(random.uniform(0.5, 1.0) * pause)
                pause = min(RETRY_S_MAX, pause * 2)
                continue
            if link.connected:
                pause = RETRY_S_MIN
            await asyncio.sleep(LOOK_S)

    async def _wait(self, for_s: float) -> None:
        """Wait so long, or until there is another key."""
        end = time.monotonic() + for_s
        while not self._changed():
            left = end - time.monotonic()
            if left <= 0:
                return
            await asyncio.sleep(min(left, LOOK_S))

    def _changed(self) -> bool:
        try:
            return self._signature() != self._seen
        except OSError:  # what is there in memory is good as long as it is
            return False

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
        except (Unavailable, AskRefused, BadKey, UnicodeError, OSError) as error:
            why = str(error) or f"no answer within {FIRST_S:g} s"
            if why != self.said:
                _log.warning("worker.no_credential", why=why)
            self.said = why
        else:
            self.said = ""

    async def _renew(self) -> None:
        """Get a JWT for the key that the file has now; where that is known no more, for the one made to take its place."""
        self._seen = self._signature()
        seed = self.seed()
        try:
            await self._get(seed)
        except AskRefused as error:
            following = next_seed(self._source) if isinstance(self._source, Path) else ""
            if error.code != NOT_ENROLLED or not following:
                raise
            await self._get(following)
            assert isinstance(self._source, Path)
            await asyncio.to_thread(promote, self._source, following)
            self._seen = self._signature()

    async def _get(self, seed: str) -> None:
        signer = Signer(seed)

        def body(at: int, nonce: str) -> bytes:
            signature = base64.b64encode(sign(self._worker, signer, at, nonce)).decode()
            return _encode(CredentialBody(self._worker, signer.public_key, at, nonce, signature))

        try:
            answer = _answer_of(await self._ask.ask(PATH, body))
            if read_user(answer.jwt).sub != signer.public_key:
                raise BadJwt("it is another key's")
            self.pin.follow(answer.signing)
        except (msgspec.DecodeError, BadJwt) as error:
            raise AskRefused("", f"the answer is no credential: {error}") from None
        except BadChain as error:
            raise AskRefused("", str(error)) from None
        self._ask.is_now(answer.now)
        self._use(seed, answer.jwt)
        self._renew_at = time.monotonic() + max(
            0.0, (answer.expires_at - answer.now) / 1000 * random.uniform(*RENEW_PART)
        )
        await asyncio.to_thread(write_atomic, self._file, answer.jwt.encode())

    def _use(self, seed: str, jwt: str) -> None:
        """Be who has this seed from the next connection on."""
        self._jwt = jwt
        if seed != self.credential.seed:
            self.credential = Credential(seed, lambda: self._jwt)
            self.signer = Signer(seed)
            if self._link is not None:
                self._link.use(self.credential)
            _log.info("worker.rekeyed", public_key=Signer(seed).public_key)

    def _kept(self) -> str:
        """What an agent before left here. Should our clock say that it is over, it is offered to NATS all the same."""
        try:
            jwt = self._file.read_text().strip()
            claims = read_user(jwt)
        except (OSError, ValueError):
            return ""
        if claims.sub != Signer(self.credential.seed).public_key:
            return ""
        now_s, life_s = signed.now() / 1000, claims.exp - claims.iat
        if claims.iat <= now_s:
            self._renew_at = time.monotonic() + claims.iat + life_s * random.uniform(*RENEW_PART) - now_s
        return jwt
