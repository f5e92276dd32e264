"""Secrets on the machine that runs the task: in its environment, and nowhere else."""

from typing import Any

import msgspec

from events.protocol import OpenSecrets
from events.spec import SecretUse, TaskText
from infra import nkey
from infra.sealed_box import seal_to
from tests.worker_support import JOB, TICKET, Rig

VALUE = "swordfish-4711-tango"
SHOW = TaskText(
    command=["sh", "-c", 'printf "%s %s" "$TOKEN" "$OTHER"'],
    env={"OTHER": "plain"},
    secrets=[SecretUse("token", "TOKEN")],
)


def sealed(rig: Rig, job: str = JOB, to: str = "") -> bytes:
    """What the platform would send."""
    return seal_to(to or rig.who.public_key, msgspec.json.encode(OpenSecrets(job, {"TOKEN": VALUE})))


def run(rig: Rig, **more: Any) -> int:
    return rig.pool.run([0, 1], SHOW, ticket=TICKET, **more)


async def test_they_are_in_the_environment_and_in_no_file(at_work: Rig) -> None:
    at_work.shelf.sealed[JOB] = sealed(at_work)
    lease = run(at_work)
    for index in (0, 1):
        assert (await at_work.pool.ended(lease, index)).code == 0
        assert at_work.pool.text(lease, index).decode() == f"{VALUE} plain"
    asked = [(method, path, key) for method, path, key in at_work.shelf.asked if path.endswith("/secrets")]
    assert asked == [("POST", f"/v1/jobs/{JOB}/secrets", f"Ticket {TICKET}")] * 2
    kept = [path for path in at_work.root.rglob("*") if path.is_file() and "output" not in path.parts]
    assert kept
    assert [path for path in kept if VALUE.encode() in path.read_bytes()] == []


async def test_what_passes_is_waited_out(at_work: Rig) -> None:
    at_work.shelf.sealed[JOB] = sealed(at_work)
    at_work.shelf.failures = [503, 429]
    lease = run(at_work)
    assert (await at_work.pool.ended(lease)).code == 0


async def test_what_does_not_pass_rejects_the_task_and_quotes_nothing(at_work: Rig) -> None:
    at_work.shelf.failures = [410, 410]
    ended = await at_work.pool.ended(run(at_work))
    assert ended.end == "rejected"
    assert "secrets could not be fetched" in ended.reason
    assert "token" not in ended.reason.lower().replace("ticket", "")


async def test_what_was_sealed_to_another_or_for_another_job_starts_nothing(at_work: Rig) -> None:
    other = nkey.public_of(nkey.new_user_seed())
    for wrong, why in (
        (sealed(at_work, to=other), "sealed to another key"),
        (b"", "sealed to another key"),
        (seal_to(at_work.who.public_key, b"no json"), "sealed to another key"),
        (sealed(at_work, "jother"), "of another job"),
    ):
        at_work.shelf.sealed[JOB] = wrong
        lease = run(at_work)
        ended = await at_work.pool.ended(lease)
        assert ended.end == "rejected"
        assert why in ended.reason
        assert VALUE not in ended.reason
        assert at_work.pool.text(lease) == b""
