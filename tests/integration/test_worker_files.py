"""An agent with real files, a platform that goes away, and restarts."""

import asyncio
import contextlib
import json
import os
import stat
from pathlib import Path

import pytest

from events.spec import Each, Input, TaskText
from infra.link import LinkDown
from tests.worker_support import TICKET, Rig
from worker import identity
from worker.machine import EXIT_SUPERSEDED


class TestFiles:
    async def test_inputs_are_placed_read_only_and_results_stored(self, at_work: Rig) -> None:
        digest = at_work.shelf.put(b"input!")
        lease = at_work.pool.sh(
            "stat -c %a data/in; cat data/in > out/r",
            inputs=[Input("data/in", digest), Input("out/keep", digest)],
            results=["out/r"],
            ticket=TICKET,
        )
        (detail,) = (await at_work.pool.ended(lease)).details
        assert at_work.pool.text(lease) == b"555\n"
        assert [(file.n, file.size) for file in detail.results] == [(0, 6)]
        assert at_work.shelf.blobs[detail.results[0].digest] == b"input!"
        assert {ticket for _, _, ticket in at_work.shelf.asked} == {f"Ticket {TICKET}"}

    async def test_a_blob_is_fetched_once(self, at_work: Rig) -> None:
        digest = at_work.shelf.put(b"x" * 3_000_000)
        lease = at_work.pool.sh("wc -c < in", [0, 19], inputs=[Input("in", digest)], ticket=TICKET)
        await at_work.pool.until(lambda: len(at_work.pool.ends(lease)) == 20, "all end")
        assert {ended.code for ended in at_work.pool.ends(lease).values()} == {0}
        assert len(at_work.shelf.asked) == 1

    async def test_a_scripts_blob_can_be_run(self, at_work: Rig) -> None:
        digest = at_work.shelf.put(b"#!/bin/sh\necho ran $1\n")
        lease = at_work.pool.run([0, 0], TaskText(command=["./go", "it"], inputs=[Input("go", digest)]))
        await at_work.pool.ended(lease)
        assert at_work.pool.text(lease) == b"ran it\n"

    async def test_one_whose_bytes_do_not_match_is_rejected(self, at_work: Rig) -> None:
        digest = at_work.shelf.put(b"good")
        at_work.shelf.blobs[digest] = b"evil"
        ended = await at_work.pool.ended(at_work.pool.sh("true", inputs=[Input("in", digest)]))
        assert ended.end == "rejected"
        assert "do not match" in ended.reason

    async def test_one_that_is_not_there_is_rejected(self, at_work: Rig) -> None:
        ended = await at_work.pool.ended(at_work.pool.sh("true", inputs=[Input("in", "0" * 64)]))
        assert ended.end == "rejected"
        assert "input 'in' could not be fetched" in ended.reason
        assert "404" in ended.reason

    async def test_passing_trouble_is_waited_out(self, at_work: Rig) -> None:
        digest = at_work.shelf.put(b"late")
        at_work.shelf.failures += [503, 500]
        assert (await at_work.pool.ended(at_work.pool.sh("cat in", inputs=[Input("in", digest)]))).code == 0

    async def test_a_spoilt_cache_is_noticed(self, at_work: Rig) -> None:
        digest = at_work.shelf.put(b"truth")
        await at_work.pool.ended(at_work.pool.sh("true", inputs=[Input("in", digest)]))
        cached = at_work.root / "cache" / digest
        cached.chmod(0o600)
        cached.write_bytes(b"lies!")
        lease = at_work.pool.sh("cat in", inputs=[Input("in", digest)])
        await at_work.pool.ended(lease)
        assert at_work.pool.text(lease) == b"truth"

    async def test_other_jobs_results_are_placed_by_task_and_path(self, at_work: Rig) -> None:
        shelf = at_work.shelf
        shelf.results["jother"] = [
            {"index": index, "path": "out/n", "digest": shelf.put(b"%d" % index), "size": 1} for index in range(5)
        ]
        lease = at_work.pool.sh(
            "cat parts/*/out/n", inputs=[Input("parts", job="jother")], position="1.7", ticket=TICKET
        )
        await at_work.pool.ended(lease)
        assert at_work.pool.text(lease) == b"01234"
        assert "min_position=1.7" in shelf.asked[0][1]

    async def test_results_that_lead_out_of_the_folder_are_not_placed(self, at_work: Rig) -> None:
        bad = {"index": 0, "path": "../../../x", "digest": at_work.shelf.put(b"x"), "size": 1}
        at_work.shelf.results["jother"] = [bad]
        ended = await at_work.pool.ended(at_work.pool.sh("true", inputs=[Input("parts", job="jother")]))
        assert ended.end == "rejected"
        assert "input 'parts' does not lie inside the task's folder" in ended.reason

    async def test_each_task_may_have_arguments_environment_and_inputs_of_its_own(self, at_work: Rig) -> None:
        digest = at_work.shelf.put(b"own")
        entries = [Each(args=[str(n)], env={"E": f"e{n}"}, inputs=[Input("own", digest)]) for n in range(3)]
        each = at_work.shelf.put(
            json.dumps(
                [{"args": e.args, "env": e.env, "inputs": [{"path": "own", "digest": digest}]} for e in entries]
            ).encode()
        )
        text = TaskText(command=["sh", "-c", "echo $0 $E; cat own"], each=each)
        lease = at_work.pool.run([0, 3], text, count=4)
        for n in range(3):
            await at_work.pool.ended(lease, n)
            assert at_work.pool.text(lease, n).decode() == f"{n} e{n}\nown"
        ended = await at_work.pool.ended(lease, 3)
        assert "has 3 entries, none for task 3" in ended.reason

    @pytest.mark.parametrize(
        ("script", "why"),
        [
            ("true", "declared result 'r' was not written"),
            ("ln -s /etc/passwd r", "is not a file inside"),
            ("mkdir r", "not a regular file"),
            ("mkfifo r", "not a regular file"),
        ],
    )
    async def test_a_success_without_its_result_is_none(self, at_work: Rig, script: str, why: str) -> None:
        ended = await at_work.pool.ended(at_work.pool.sh(script, results=["r"]))
        assert (ended.end, ended.code) == ("output_lost", 0)
        assert why in ended.reason

    async def test_a_folder_that_is_a_link_is_not_followed(self, at_work: Rig) -> None:
        ended = await at_work.pool.ended(at_work.pool.sh("ln -s /etc d", results=["d/passwd"]))
        assert ended.end == "output_lost"

    async def test_a_failure_is_one_whatever_it_wrote(self, at_work: Rig) -> None:
        ended = await at_work.pool.ended(at_work.pool.sh("exit 4", results=["r"]))
        assert (ended.end, ended.code) == ("exit", 4)


class TestPlatform:
    async def test_a_lost_answer_repeats_the_same_report(self, at_work: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("worker.agent.ANSWER_S", 0.2)
        at_work.pool.silent_reports = 2
        first = at_work.pool.sh("exit 1")
        await at_work.pool.ended(first)
        await at_work.pool.ended(at_work.pool.sh("exit 2"))
        sequences = [report.sequence for report in at_work.pool.reports]
        assert sequences == sorted(set(sequences))

    async def test_resync_is_answered_with_all_that_is_held(self, at_work: Rig) -> None:
        lease = at_work.pool.sh("sleep 600")
        await at_work.pool.until(lambda: at_work.pool.started(lease), "it starts")
        at_work.pool.hellos.clear()
        link = at_work.pool._link
        await link.publish(f"push.default.{at_work.who.worker}.{at_work.agent._nonce}.poll", b"")
        await at_work.pool.until(lambda: at_work.pool.hellos, "a hello comes")
        assert [(held.lease, held.tasks) for held in at_work.pool.hellos[0][1].holding] == [(lease, [0, 0])]

    async def test_all_are_told_to_poll_again(self, at_work: Rig) -> None:
        polls = len(at_work.pool.polls)
        await at_work.pool._link.publish("push.default.all.poll", b"")
        await at_work.pool.until(lambda: len(at_work.pool.polls) > polls, "another poll comes")

    async def test_superseded_it_stops_with_3(self, rig: Rig, capfd: pytest.CaptureFixture[str]) -> None:
        task = await rig.start()
        rig.pool.deny = "superseded"
        await rig.pool._link.publish("push.default.all.poll", b"")
        assert await asyncio.wait_for(task, 20) == EXIT_SUPERSEDED
        assert "another agent" in capfd.readouterr().err

    async def test_told_to_slow_down_it_waits_and_sends_everything_again(self, rig: Rig) -> None:
        rig.pool.slow_downs = {"next": 3, "report": 3, "output": 3}
        await rig.start()
        lease = rig.pool.sh("echo done")
        assert (await rig.pool.ended(lease)).code == 0
        assert rig.pool.text(lease) == b"done\n"
        assert set(rig.pool.slow_downs.values()) == {0}

    async def test_it_goes_on_without_the_platform_and_reports_afterwards(self, at_work: Rig) -> None:
        pool, server = at_work.pool, at_work.server
        go = at_work.root / "go"
        lease = pool.sh(f"while [ ! -e {go} ]; do sleep 0.01; done; echo done")
        await pool.until(lambda: pool.started(lease), "it starts")
        port = server.url
        await server.stop()
        go.touch()
        with contextlib.suppress(LinkDown):
            await server.start()
        assert server.url == port
        assert (await pool.ended(lease)).code == 0
        assert pool.text(lease) == b"done\n"

    async def test_heartbeats_tell_of_the_machine(self, rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("worker.resources.INTERVAL_S", 0.05)
        await rig.start()
        await rig.pool.until(lambda: len(rig.pool.beats) > 1, "heartbeats")
        beat = rig.pool.beats[-1]
        assert 0 < beat.memory_used < beat.memory_total
        assert beat.disk_free > 0


class TestLives:
    async def test_what_was_not_recorded_is_told_by_the_next_agent(self, rig: Rig) -> None:
        first = await rig.start()
        rig.pool.take_reports = False
        lease = rig.pool.run([0, 2], TaskText(command=["sh", "-c", "exit 5"]))
        spool = rig.root / "spool"
        async with asyncio.timeout(20):
            while sum(path.stat().st_size for path in spool.glob("reports.*")) < 100 or rig.agent._shell.state.running:
                await asyncio.sleep(0.01)
        await rig.kill(first)
        rig.pool.take_reports = True
        await rig.start()
        await rig.pool.until(lambda: len(rig.pool.ends(lease)) == 3, "all are reported")
        assert {ended.code for ended in rig.pool.ends(lease).values()} == {5}
        (held,) = rig.pool.hellos[-1][1].holding
        assert (held.lease, held.tasks) == (lease, [0, 2])

    async def test_two_agents_cannot_share_a_folder(self, rig: Rig) -> None:
        with identity.claim(rig.root), pytest.raises(identity.StateInUse, match=rf"process {os.getpid()}.*kill"):
            identity.claim(rig.root)

    async def test_the_key_is_made_once_and_private(self, tmp_path: Path) -> None:
        who = identity.load_or_create(tmp_path / "w")
        assert identity.load_or_create(tmp_path / "w") == who
        assert len(who.worker) == 13
        assert stat.S_IMODE(who.seed_path.stat().st_mode) == 0o600

    async def test_stopped_once_it_finishes_what_runs(self, rig: Rig) -> None:
        task = await rig.start()
        go = rig.root / "go"
        lease = rig.pool.sh(f"while [ ! -e {go} ]; do sleep 0.01; done", [0, 4])
        await rig.pool.until(lambda: rig.pool.started(lease), "it starts")
        rig.agent.stop()
        assert "2 running" in rig.agent.waiting_for()
        await rig.pool.until(lambda: len(rig.pool.ends(lease)) == 3, "the waiting ones are given back")
        assert {ended.end for ended in rig.pool.ends(lease).values()} == {"returned"}
        go.touch()
        assert await asyncio.wait_for(task, 20) == 0
        assert rig.pool.reports[-1].bye
        assert rig.pool.ends(lease)[0].code == 0

    async def test_stopped_twice_it_ends_it(self, rig: Rig) -> None:
        task = await rig.start()
        lease = rig.pool.sh("trap '' TERM; sleep 600 & wait")
        await rig.pool.until(lambda: rig.pool.started(lease), "it starts")
        rig.agent.stop()
        rig.agent.stop()
        assert await asyncio.wait_for(task, 20) == 0
        assert rig.pool.ends(lease)[0].end == "lost"
        assert rig.pool.ends(lease)[0].reason == "worker stopped"
        assert rig.pool.reports[-1].bye

    async def test_stopped_without_a_platform_it_leaves_soon(self, rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("worker.agent.EMPTY_BYE_S", 0.2)
        task = await rig.start()
        await rig.server.stop()
        rig.agent.stop()
        assert await asyncio.wait_for(task, 20) == 0
