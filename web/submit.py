"""From the body of a submission to commands for the pool: checked, refs resolved, text sealed.

Everything here is per job and on the hot path: a request of 256 jobs takes some microseconds for each.
"""

import base64
import hashlib
import math
import os
from collections.abc import Sequence
from typing import Any

import msgspec

from events.account import Limits
from events.base import Digest, JobId, Sealed, UserId
from events.hardware import slug
from events.job import Cost, JobSubmitted, Retries
from events.limits import needs_of
from events.spec import TEXT_BYTES_MAX, JobSpec, RetrySpec, check_spec, gpus_milli, kind_of, retries_of, text_of
from infra.sealing import Keys
from services.pool.commands import Submit
from web.problems import Failed, bad_field, of_decoding
from web.refs import Place, needs_resolving, resolve

BODY_BYTES_MAX = 8 * 1024**2
JOBS_MAX = 1000
KEY_CHARS_MAX = 200
ID_BYTES = 10
"""80 bits: 16 characters of base 32."""

_one_of = msgspec.json.Decoder(JobSpec).decode
_many_of = msgspec.json.Decoder(list[JobSpec]).decode
_encode = msgspec.json.Encoder().encode
_canonical = msgspec.json.Encoder(order="deterministic").encode
_NO_RETRY_SPEC, _NO_RETRIES = RetrySpec(), Retries()


def place_in_list(number: int) -> str:
    """Where a job of a list is."""
    return f"jobs[{number}]."


def place_alone(number: int) -> str:
    """Where the only job is, when the body is no list."""
    return ""


def parse(body: bytes) -> tuple[list[JobSpec], Place]:
    """The jobs in a request's body, checked one by one. Raises Failed or BadSpec."""
    if not body:
        raise Failed(400, "bad-json", "the body is empty", remedy='send a job, such as {"command": ["echo", "hello"]}')
    many = body.lstrip()[:1] == b"["
    try:
        specs = _many_of(body) if many else [_one_of(body)]
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise of_decoding(error, "jobs" if many else "") from None
    if not 1 <= len(specs) <= JOBS_MAX:
        remedy = "send several requests" if specs else "put a job into the list"
        raise bad_field("jobs", f"has {len(specs)} entries; a request takes 1 to {JOBS_MAX}", remedy)
    if many:
        for number, spec in enumerate(specs):
            check_spec(spec, f"jobs[{number}]")
    else:
        check_spec(specs[0])
    return specs, place_in_list if many else place_alone


def check_key(key: str) -> None:
    """Raise Failed unless it can be an Idempotency-Key ("": none)."""
    if len(key) > KEY_CHARS_MAX or not key.isprintable():
        detail = f"has {len(key)} characters; it must be at most {KEY_CHARS_MAX} printable ones"
        raise bad_field("Idempotency-Key", detail, "use a random one, such as a UUID", status=400)


def new_ids(count: int, owner: UserId, key: str) -> list[JobId]:
    """Ids for the jobs of one request: always the same for the same owner and key, random without one."""
    if not key:
        raw = os.urandom(ID_BYTES * count)
        return [_id(raw[at : at + ID_BYTES]) for at in range(0, len(raw), ID_BYTES)]
    start = hashlib.sha256(f"{owner}|{key}|".encode())
    ids: list[JobId] = []
    for number in range(count):
        one = start.copy()
        one.update(b"%d" % number)
        ids.append(_id(one.digest()[:ID_BYTES]))
    return ids


def _id(raw: bytes) -> JobId:
    return "j" + base64.b32encode(raw).decode().lower()


class Request(msgspec.Struct, frozen=True, gc=False):
    """A request's jobs as commands. `order[k]` is the place in the request of the k-th command."""

    ids: list[JobId]
    commands: list[Submit]
    order: list[int]
    specs: list[JobSpec]


def build(
    specs: list[JobSpec],
    place: Place,
    owner: UserId,
    key: str,
    keys: Keys,
    limits: Limits = Limits(),
    costs: Sequence[Cost] | None = None,
) -> Request:
    """Commands for the jobs of `owner`, who has these limits; they cost so much each. Raises BadSpec or Failed."""
    ids = new_ids(len(specs), owner, key)
    order = list(range(len(specs)))
    if any(needs_resolving(spec) for spec in specs):
        specs, order = resolve(specs, ids, place)
    digests = _digests(specs, bool(key))
    seal = keys.seal
    commands: list[Submit] = []
    for number in order:
        text = _encode(text_of(specs[number]))
        if len(text) > TEXT_BYTES_MAX:
            raise _text_too_large(place(number).rstrip("."), len(text))
        fact = _fact(
            specs[number], ids[number], owner, digests[number], seal(owner, text), costs[number] if costs else None
        )
        commands.append(Submit(fact, open_jobs_max=limits.open_jobs, queued_tasks_max=limits.queued_tasks))
    return Request(ids, commands, order, specs)


def _text_too_large(field: str, size: int) -> Failed:
    detail = f"command, env, labels, inputs and results take {size} bytes together; the limit is {TEXT_BYTES_MAX}"
    remedy = "upload large values as blobs and name them in inputs, or per task in `each`"
    return Failed(413, "too-large", detail, field=field or "command", remedy=remedy)


def _digests(specs: list[JobSpec], keyed: bool) -> list[Digest]:
    """What a job's body is known by. Under a key it is of the whole request: no part of it may be another next time."""
    bodies = [_canonical(spec) for spec in specs]
    if not keyed or len(specs) == 1:
        return [hashlib.sha256(body).hexdigest() for body in bodies]
    whole = hashlib.sha256(b"\n".join(bodies))
    return [hashlib.sha256(whole.digest() + body).hexdigest() for body in bodies]


def _fact(spec: JobSpec, job: JobId, owner: UserId, digest: Digest, text: Sealed, cost: Cost | None) -> JobSubmitted:
    # The default is the same object in every decoded spec that leaves it out.
    retries = _NO_RETRIES if spec.retries == _NO_RETRY_SPEC else retries_of(spec)
    kind = kind_of(spec)
    return JobSubmitted(
        job,
        owner,
        digest,
        text,
        kind,
        spec.count,
        spec.priority,
        round(spec.cpus * 1000),
        spec.memory,
        math.ceil(spec.time_limit * 1000),  # 0 is no limit
        round(spec.lost_after * 1000),
        retries,
        spec.after,
        needs=needs_of(spec, kind),
        gpus_milli=gpus_milli(spec),
        gpu_memory=spec.gpu_memory,
        gpu_model=slug(spec.gpu_model) if spec.gpu_model else "",
        cost=cost,
    )


def blobs_of(specs: list[JobSpec], place: Place) -> dict[Digest, str]:
    """The blobs that must be here, each with the field that names it first."""
    named: dict[Digest, str] = {}
    for number, spec in enumerate(specs):
        if spec.each:
            named.setdefault(spec.each, f"{place(number)}each")
        for at, file in enumerate(spec.inputs):
            if file.digest and not file.url:
                named.setdefault(file.digest, f"{place(number)}inputs[{at}].digest")
    return named


def size_of(command: Submit) -> int:
    """About how many bytes the command takes on its way to the pool."""
    fact: Any = command.fact
    return 400 + len(fact.text.data) + 24 * len(fact.after)
