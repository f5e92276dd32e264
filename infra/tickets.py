"""Tickets: what lets a worker fetch and store the blobs of one job over HTTP, for a while and without an account.

A ticket is readable by whoever holds it (worker, job, roots, expiry) and cannot be changed: HMAC-SHA256 over its
msgpack form. Roots: a digest opens that blob, `folder:<digest>` that list of files and each of them, `results:<job>` the
results of another job, `put` allows uploads, `secrets` the secrets of the job itself.
"""

import base64
import binascii
import hashlib
import hmac

import msgspec

from events.base import Digest, JobId, WorkerId
from events.inputs import DIGEST, Input

ROOTS_MAX = 4096
"""Of one ticket. It travels in an HTTP header, where a digest takes 46 bytes and a job about 25. The roots of a job come
from its text, which is at most `events.spec.TEXT_BYTES_MAX` long, so a ticket stays below 64 KiB.
"""

PUT = "put"
SECRETS = "secrets"
RESULTS = "results:"
FOLDER = "folder:"
_VERSION = 1
_MAC_BYTES = 32


class BadTicket(Exception):
    """Not a ticket of ours, or not any more. The message says which."""


class Ticket(msgspec.Struct, frozen=True, gc=False):
    """What a valid ticket says."""

    worker: WorkerId
    job: JobId
    roots: list[str]

    def opens(self, digest: Digest) -> bool:
        """Whether the ticket names this blob itself."""
        return digest in self.roots or FOLDER + digest in self.roots

    def folders(self) -> list[Digest]:
        """The lists of files that it opens."""
        return [root[len(FOLDER) :] for root in self.roots if root.startswith(FOLDER)]

    @property
    def may_put(self) -> bool:
        """Whether the ticket allows uploads."""
        return PUT in self.roots

    def results_of(self) -> list[JobId]:
        """The jobs whose results it opens."""
        return [root[len(RESULTS) :] for root in self.roots if root.startswith(RESULTS)]


class _Claims(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A ticket as signed; digests as their 32 bytes, jobs whose results it opens without their prefix."""

    version: int
    worker: WorkerId
    job: JobId
    digests: list[bytes]
    jobs: list[JobId]
    words: list[str]
    expires_at: int


_pack = msgspec.msgpack.Encoder().encode
_claims_of = msgspec.msgpack.Decoder(_Claims).decode


class Tickets:
    """Issues and checks tickets under one secret `key`."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def _mac(self, payload: bytes) -> bytes:
        return hmac.new(self._key, b"hive.ticket." + payload, hashlib.sha256).digest()

    def issue(self, worker: WorkerId, job: JobId, roots: list[str], expires_at: int) -> str:
        """A ticket that is valid until `expires_at` (ms since 1970), url-safe. ValueError beyond ROOTS_MAX roots."""
        if len(roots) > ROOTS_MAX:
            raise ValueError(f"a ticket for {job} has {len(roots)} roots; the limit is {ROOTS_MAX}")
        digests, jobs, words = list[bytes](), list[JobId](), list[str]()
        for root in dict.fromkeys(roots):
            if _is_digest(root):
                digests.append(bytes.fromhex(root))
            elif root.startswith(RESULTS):
                jobs.append(root[len(RESULTS) :])
            else:
                words.append(root)
        payload = _pack(_Claims(_VERSION, worker, job, digests, jobs, words, expires_at))
        return base64.urlsafe_b64encode(self._mac(payload) + payload).rstrip(b"=").decode()

    def check(self, ticket: str, now: int) -> Ticket:
        """What `ticket` says, at `now` (ms since 1970). Raises BadTicket."""
        try:
            raw = base64.b64decode(ticket.encode("ascii") + b"=" * (-len(ticket) % 4), b"-_", validate=True)
        except (binascii.Error, ValueError):
            raise BadTicket("the ticket is not url-safe base64; copy it whole") from None
        mac, payload = raw[:_MAC_BYTES], raw[_MAC_BYTES:]
        if not hmac.compare_digest(mac, self._mac(payload)):
            raise BadTicket("the ticket was not issued here, or was changed")
        try:
            claims = _claims_of(payload)
        except msgspec.DecodeError:
            raise BadTicket("the ticket is of another version; poll for a new one") from None
        if claims.version != _VERSION:
            raise BadTicket("the ticket is of another version; poll for a new one")
        if now >= claims.expires_at:
            raise BadTicket("the ticket has expired; poll for a new one")
        roots = [digest.hex() for digest in claims.digests] + [RESULTS + job for job in claims.jobs] + claims.words
        return Ticket(claims.worker, claims.job, roots)


def root_of(file: Input) -> str:
    """What a task that has this input needs a ticket for."""
    return f"{RESULTS}{file.job}" if file.job else f"{FOLDER}{file.digest}" if file.form == "folder" else file.digest


def _is_digest(root: str) -> bool:
    return DIGEST.match(root) is not None
