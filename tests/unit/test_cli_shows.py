"""What single commands make of what the API says."""

from pathlib import Path

import msgspec
import pytest

from events import catalog
from events.base import Sealed
from events.catalog import Decision, Message, Unknown, pool_subject
from events.job import JobSubmitted
from events.log import MemoryLog
from services.cli import prove
from services.cli.prove import Live, compare, fold
from services.cli.tail import event_of
from services.cli.workers import HEADS, worker_row
from web.client.errors import Refused
from web.client.results import place_of
from web.schema import Result, WorkerView


def result(path: str) -> Result:
    return Result(3, path, "0" * 64, 1)


def test_results_are_written_by_task_and_path(tmp_path: Path) -> None:
    assert place_of(tmp_path, result("a/b"), flat=False) == tmp_path / "3" / "a" / "b"
    assert place_of(tmp_path, result("a/b"), flat=True) == tmp_path / "a" / "b"


@pytest.mark.parametrize("path", ["../x", "a/../../x", "/etc/x"])
def test_no_result_is_written_outside_its_folder(tmp_path: Path, path: str) -> None:
    with pytest.raises(Refused):
        place_of(tmp_path, result(path), flat=True)


def test_a_link_in_the_folder_does_not_lead_out_of_it(tmp_path: Path) -> None:
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "out").symlink_to(tmp_path)
    with pytest.raises(Refused):
        place_of(tmp_path / "to", result("out/x"), flat=True)


def test_an_event_whose_text_is_sealed() -> None:
    shown = msgspec.Raw(b'{"type":"job.submitted","job":"j1","owner":"o","digest":"d","text":"<sealed>"}')
    event = event_of(shown)
    assert isinstance(event, JobSubmitted)
    assert event.job == "j1"


def test_an_event_of_a_newer_version_is_shown_as_it_is() -> None:
    event = event_of(msgspec.Raw(b'{"type":"job.dreamt","job":"j1","of":"<sealed>"}'))
    assert isinstance(event, Unknown)
    assert event.tag == "job.dreamt"


def test_a_reason_that_reads_like_a_seal_is_shown() -> None:
    assert event_of(msgspec.Raw(b'{"type":"job.cancelled","job":"j1","reason":"<sealed>"}')) == Unknown(
        "job.cancelled", {"job": "j1", "reason": "<sealed>"}
    )


async def submitted_log() -> MemoryLog:
    log = MemoryLog()
    message = Message("m1", 1000, "w", [Decision([JobSubmitted("j1", "o", "d", Sealed("k", b""), count=3)])])
    await log.append(pool_subject("p"), catalog.encode(message), 0)
    return log


def live(**job: object) -> Live:
    row = {"state": "queued", "reason": "", "kind": "process", "count": 3, "queued": 3, "priority": 5, "memory": 0}
    row |= dict.fromkeys(("leased", "running", "succeeded", "failed", "cancelled", "finished_at"), 0)
    row |= {"after": [], "owner": "o", "submitted_at": 1000, "position": "1.1"}
    totals = {"jobs": {"queued": 1}, "tasks": {"queued": 3, "failed": 0}, "workers": {}}
    return Live(1, "p", totals, {"j1": {**row, **job}}, {})


async def test_the_proof_finds_the_state_equal() -> None:
    folded = await fold(await submitted_log(), "p", 1)
    assert (folded.messages, folded.events) == (1, 1)
    assert compare(folded, live()) == []
    assert prove.check_pool(folded, live(), "nowhere") == []


async def test_the_proof_names_what_differs() -> None:
    folded = await fold(await submitted_log(), "p", 1)
    assert compare(folded, live(succeeded=1)) == ["j1 succeeded: the log says 0, the hive 1"]
    assert compare(folded, live()._replace(jobs={})) == ["j1 is in the log and not in the list"]
    other = live()._replace(totals={"tasks": {"queued": 2}})
    assert compare(folded, other) == ["total tasks: the log says {'queued': 3}, the hive {'queued': 2}"]
    ended = live(finished_at=5)
    assert prove.check_pool(folded, ended, "nowhere") == ["j1 has ended and is still open in the pool"]


async def test_an_empty_log_folds_to_nothing() -> None:
    assert (await fold(MemoryLog(), "p", 0)).messages == 0


def test_workers_are_shown_with_the_names_they_were_given() -> None:
    worker = WorkerView("w2", "ready", True, 1.5, 2**31, ["process"], "0.1", 1, 2, 3, 0, name="the big one " * 9)
    row = dict(zip(HEADS, worker_row(worker, 0.0), strict=True))
    assert row["NAME"].startswith("the big one")
    assert len(row["NAME"]) == 40
    assert (row["WORKER"], row["STATE"], row["CPUS"], row["MEMORY"]) == ("w2", "drained", "1.5", "2 GiB")
