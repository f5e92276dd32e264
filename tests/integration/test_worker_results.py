"""What tasks leave and what they tell of themselves: folders, patterns, artifacts, structured results, progress; of tasks
that were stopped, too; and what is never taken.
"""

import re
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from events.inputs import File, Input, files_of, list_bytes
from events.protocol import Cancel, Ended
from events.task import Detail
from tests.worker_support import JOB, Rig, rigged
from worker.emits import EMIT_BYTES_MAX
from worker.results import pattern_of


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncGenerator[Rig]:
    async with rigged(tmp_path) as rig:
        yield rig


async def left(rig: Rig, script: str, *results: str, **more: Any) -> tuple[Ended, Detail]:
    """How a task with these declared results ended."""
    await rig.start()
    ended = await rig.pool.ended(rig.pool.sh(script, results=[*results], ticket="t", **more))
    return ended, ended.details[0]


def listed(rig: Rig, detail: Detail, at: int = 0) -> dict[str, bytes]:
    """The files of a result that is a list."""
    ref = detail.results[at]
    files = files_of(rig.shelf.blobs[ref.digest])
    assert (ref.files, ref.size) == (len(files), sum(file.size for file in files))
    return {file.path: rig.shelf.blobs[file.digest] for file in files}


async def test_a_folder_is_a_list_of_its_files(rig: Rig) -> None:
    script = "mkdir -p out/a; echo 1 > out/a/x; echo 2 > out/y; echo no > other; ln -s y out/link; mkfifo out/pipe"
    ended, detail = await left(rig, script, "out/")
    assert (ended.end, ended.code) == ("exit", 0)
    assert listed(rig, detail) == {"out/a/x": b"1\n", "out/y": b"2\n"}


async def test_the_whole_folder_is_all_but_the_inputs(rig: Rig) -> None:
    inputs = [
        Input("in", rig.shelf.put(list_bytes([File("kept", rig.shelf.put(b"kept\n"), 5)])), form="folder"),
        Input("changed", rig.shelf.put(b"before\n")),
    ]
    script = "rm changed; echo after > changed; echo new > in/new; echo .h > .hidden"
    _, detail = await left(rig, script, "./", inputs=inputs)
    assert listed(rig, detail) == {"changed": b"after\n", "in/new": b"new\n", ".hidden": b".h\n"}


async def test_patterns_take_what_fits_and_each_file_once(rig: Rig) -> None:
    script = "mkdir -p logs/a/b; touch logs/1.txt logs/a/b/2.txt logs/3.csv top.csv"
    _, detail = await left(rig, script, "logs/**/*.txt", "*.csv", "logs/", "*.none")
    assert [sorted(listed(rig, detail, at)) for at in range(4)] == [
        ["logs/1.txt", "logs/a/b/2.txt"], ["top.csv"], ["logs/3.csv"], [],
    ]  # fmt: skip


async def test_a_declared_folder_that_is_not_there_is_a_result_that_was_not_written(rig: Rig) -> None:
    ended, _ = await left(rig, "mkdir elsewhere; ln -s elsewhere out", "out/")
    assert ended.end == "output_lost"
    assert "'out/' is not a folder" in ended.reason


async def test_of_a_task_that_fails_what_there_is(rig: Rig) -> None:
    ended, detail = await left(rig, "echo partial > a; mkdir d; echo x > d/x; exit 3", "a", "b", "d/", "e/")
    assert (ended.end, ended.code) == ("exit", 3)
    assert [ref.n for ref in detail.results] == [0, 2]
    assert rig.shelf.blobs[detail.results[0].digest] == b"partial\n"


@pytest.mark.parametrize("stop", ["cancel", "time limit"])
async def test_of_a_task_that_is_stopped_too(rig: Rig, stop: str) -> None:
    await rig.start()
    script = "echo checkpoint > model; echo started; exec sleep 600"
    limit: dict[str, Any] = {"time_limit_ms": 700} if stop == "time limit" else {}
    lease = rig.pool.sh(script, results=["model"], ticket="t", **limit)
    await rig.pool.until(lambda: b"started" in rig.pool.text(lease), "it writes")
    if stop == "cancel":
        rig.pool.say(Cancel(rig.pool.number(), JOB))
    ended = await rig.pool.ended(lease)
    assert ended.end == ("cancelled" if stop == "cancel" else "timeout")
    assert rig.shelf.blobs[ended.details[0].results[0].digest] == b"checkpoint\n"


@pytest.mark.parametrize(
    ("pattern", "fits", "not_"),
    [
        ("*.txt", ["a.txt", ".txt"], ["a/b.txt", "a.txtx", "a.txt\n"]),
        ("**/*.txt", ["a.txt", "a/b.txt", "a/b/c.txt"], ["a.csv"]),
        ("a/**", ["a/b", "a/b/c"], ["b", "ab"]),
        ("a?c", ["abc"], ["a/c", "ac"]),
        ("[ab]/[!c]", ["a/b", "b/x"], ["c/b", "a/c", "a//"]),
        ("[a", ["[a"], ["a"]),
        ("a.b", ["a.b"], ["axb"]),
        ("out/", ["out/a", "out/a/b"], ["out", "outer/a"]),
        ("./", ["a", "a/b"], []),
    ],
)
def test_what_patterns_mean(pattern: str, fits: list[str], not_: list[str]) -> None:
    wanted = pattern_of(pattern)
    assert all(wanted.match(path) for path in fits)
    assert not any(wanted.match(path) for path in not_)


# Emitted


async def test_a_task_tells_of_progress_results_and_artifacts(rig: Rig) -> None:
    script = r"""
      echo '{"progress": 12.4, "text": "one"}' >> "$HIVE_EMIT"
      echo '{"name": "metrics", "json": {"acc": 0.5, "of": [1, 2]}}' >> "$HIVE_EMIT"
      echo bytes > model.pt; echo '{"artifact": "model.pt"}' >> "$HIVE_EMIT"
      echo nonsense >> "$HIVE_EMIT"
      printf '{"progress": 250}' >> "$HIVE_EMIT"
    """
    ended, detail = await left(rig, script)
    assert (ended.end, ended.code, detail.progress) == ("exit", 0, 100)
    assert msgspec.json.decode(rig.shelf.blobs[detail.emitted]) == [
        {"name": "metrics", "json": {"acc": 0.5, "of": [1, 2]}}
    ]
    assert listed(rig, detail) == {"model.pt": b"bytes\n"}
    assert b"line 4 of HIVE_EMIT cannot be used" in rig.pool.text(ended.lease)
    lines = [msgspec.json.decode(line) for line in rig.pool.text(ended.lease, stream=3).splitlines()]
    assert {"progress": 100, "text": "one"} in lines
    assert {"artifact": "model.pt"} in lines


async def test_progress_is_told_while_it_runs_and_not_too_often(rig: Rig) -> None:
    await rig.start()
    go = rig.root / "go"
    script = f'n=0; while [ ! -e {go} ]; do n=$((n+1)); echo "{{\\"progress\\": $n}}" >> "$HIVE_EMIT"; sleep 0.01; done'
    lease = rig.pool.sh(script)
    await rig.pool.until(lambda: rig.pool.text(lease, stream=3).count(b"\n") == 2, "it is told twice")
    go.touch()
    ended = await rig.pool.ended(lease)
    assert ended.details[0].progress > 20
    assert rig.pool.text(lease, stream=3).count(b"\n") <= 4


async def test_artifacts_that_lead_out_or_are_not_there(rig: Rig) -> None:
    ended, _ = await left(rig, """echo '{"artifact": "../../../secret"}' >> "$HIVE_EMIT"; ln -s /etc/passwd p""")
    assert (ended.end, ended.code) == ("exit", 0)
    ended = await rig.pool.ended(
        rig.pool.sh("""ln -s /etc/passwd p; echo '{"artifact": "p"}' >> "$HIVE_EMIT" """, ticket="t")
    )
    assert ended.end == "output_lost"
    assert re.search("artifact 1 that the task named is not a file inside", ended.reason)


async def test_emitting_through_a_link_reads_nothing(rig: Rig) -> None:
    ended, detail = await left(rig, 'rm -f "$HIVE_EMIT"; ln -s /etc/passwd "$HIVE_EMIT"')
    assert (ended.end, detail.emitted, detail.progress) == ("exit", "", -1)
    assert b"root:" not in rig.pool.text(ended.lease)


async def test_what_is_emitted_is_bounded(rig: Rig) -> None:
    ended, detail = await left(rig, """for n in $(seq 70000); do echo '{"json": 12345}'; done >> "$HIVE_EMIT" """)
    assert (ended.end, ended.code) == ("exit", 0)
    assert len(msgspec.json.decode(rig.shelf.blobs[detail.emitted])) == EMIT_BYTES_MAX // 16
    assert rig.pool.text(ended.lease).count(b"more was emitted than is kept") == 1
