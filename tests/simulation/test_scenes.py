"""The pool's service over a network, one scene each: who is answered, with what, and that nobody waits for nothing."""

import asyncio
import functools
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from events.job import Retries
from events.protocol import POLL_S_MAX, Cancel, Denied, Drain, Order, Orders, Run
from services.asking import HELD_S, Accepted, RefusedAnswer
from services.pool.commands import CancelJob, Command, DrainWorker, Submit
from services.pool.worker import UNREACHABLE_MS
from tests.pool_support import fact
from tests.simulation.stage import SOON_S, Hand, Polling, Stage, play, unanswered, waits

UNREACHABLE_S = UNREACHABLE_MS / 1000
AGAIN = Retries(exit=5, backoff_ms=0)


def scene(act: Callable[[Stage], Awaitable[None]]) -> Callable[[Path], None]:
    """A test that plays `act`."""

    @functools.wraps(act)
    def test(tmp_path: Path) -> None:
        with capture_logs():
            play(act, tmp_path)

    del test.__wrapped__  # pytest must see our argument, not the act's
    return test


async def _waiting(stage: Stage) -> tuple[Hand, Polling]:
    """A worker that has nothing to do, and its poll; A leads."""
    await stage.leads(stage.a)
    hand = stage.worker()
    assert await hand.greets() == Orders()
    polling = hand.poll()
    await waits(polling)
    return hand, polling


# Users


@scene
async def test_a_question_that_arrives_twice_is_answered_twice_and_done_once(stage: Stage) -> None:
    await stage.leads(stage.a)
    assert (await stage.submit("j1")).outcomes == [Accepted()]
    assert (await stage.submit("j1")).outcomes == [Accepted(existing=True)]
    assert (await stage.submit("j1")).position == 2


@scene
async def test_a_refusal_names_the_field(stage: Stage) -> None:
    await stage.leads(stage.a)
    (outcome,) = (await stage.submit("j1", after=["j9"])).outcomes
    assert isinstance(outcome, RefusedAnswer)
    assert (outcome.code, outcome.field) == ("unknown_job", "after[0]")


@scene
async def test_the_index_forgets_what_never_came_into_the_log(stage: Stage) -> None:
    a, b = stage.a, stage.b
    await stage.leads(a)
    b.start()
    await asyncio.sleep(5)
    assert a.way is not None
    b.link.cut_off(noticed=False)
    a.way.hold()
    appends = a.way.appends
    await unanswered(stage.submit("j1"))
    assert a.way.appends > appends, "decided, and on its way to the log"
    a.pause()
    await stage.until(b.leads)
    await b.crash()
    a.heal()
    await stage.until(lambda: not a.leads())
    await stage.leads(a)
    assert (await stage.submit("j1")).outcomes == [Accepted(existing=False)]
    assert stage.auditor.open_jobs() == ["j1"]


@scene
async def test_what_was_asked_while_nobody_led_is_done_by_the_next(stage: Stage) -> None:
    await stage.leads(stage.a)
    stage.b.start()
    await asyncio.sleep(5)
    await stage.a.crash()
    answer = await stage.ask(Submit(fact("j1")), timeout_s=HELD_S)
    assert answer.outcomes == [Accepted()]
    assert stage.b.leads()


@scene
async def test_what_was_asked_long_ago_is_not_done_later(stage: Stage) -> None:
    await stage.leads(stage.a)
    stage.b.start()
    await asyncio.sleep(5)
    # B hears the question and follows; A does not hear it, and goes on to lead.
    stage.a.link.cut_off(noticed=False)
    stage.b.link.cut = False
    assert stage.b.way is not None
    stage.b.way.down = True
    await unanswered(stage.ask(Submit(fact("j1"))))
    await asyncio.sleep(HELD_S * 2)
    stage.b.way.down = False
    await stage.leads(stage.b)
    await asyncio.sleep(SOON_S)
    assert stage.auditor.open_jobs() == []


# Workers


@scene
async def test_work_reaches_a_worker_that_waits(stage: Stage) -> None:
    hand, polling = await _waiting(stage)
    await stage.submit("j1")
    await hand.ends(await hand.runs(polling))
    assert stage.auditor.open_jobs() == []


@scene
async def test_a_poll_is_answered_with_nothing_after_a_while(stage: Stage) -> None:
    await stage.leads(stage.a)
    hand = stage.worker()
    await hand.greets()
    begin = asyncio.get_running_loop().time()
    polling = hand.poll()
    while not polling.done():
        hand.beats()
        await asyncio.sleep(1)
    assert await polling == Orders()
    assert POLL_S_MAX <= asyncio.get_running_loop().time() - begin < POLL_S_MAX + 3


@scene
async def test_an_unknown_worker_is_asked_to_say_hello(stage: Stage) -> None:
    await stage.leads(stage.a)
    assert await stage.worker().poll() == Orders(resync=True)


@scene
async def test_a_superseded_agent_is_told_so_and_pushes_nobody_aside(stage: Stage) -> None:
    await stage.leads(stage.a)
    old, new = stage.worker(session="s1"), stage.worker(session="s2")
    await old.greets()
    await new.greets()
    polling = new.poll()
    await waits(polling)
    said = await old.poll(timeout_s=SOON_S)
    assert isinstance(said, Denied)
    assert said.code == "superseded"
    await stage.submit("j1")
    assert (await new.runs(polling)).job == "j1"


@scene
async def test_a_poll_that_was_overtaken_does_not_take_the_newer_ones_place(stage: Stage) -> None:
    await stage.leads(stage.a)
    hand = stage.worker()
    await hand.greets()
    polling = hand.poll(sequence=9)
    await waits(polling)
    late = hand.poll(sequence=8)
    await waits(late)
    await stage.submit("j1")
    assert (await hand.runs(polling)).job == "j1"
    late.cancel()


@pytest.mark.parametrize(("command", "order"), [(CancelJob("j1"), Cancel), (DrainWorker("w1", True), Drain)])
def test_what_is_asked_of_it_reaches_a_worker_that_waits(tmp_path: Path, command: Command, order: type[Order]) -> None:
    async def act(stage: Stage) -> None:
        await stage.leads(stage.a)
        hand = stage.worker(cpus=2)
        await hand.greets()
        await stage.submit("j1")
        run = await hand.runs()
        polling = hand.poll()
        await waits(polling)
        await stage.ask(command)
        async with asyncio.timeout(SOON_S):
            said = await polling
        assert isinstance(said, Orders)
        assert [type(one) for one in said.orders] == [order]
        assert said.orders[0].number > run.number

    with capture_logs():
        play(act, tmp_path)


@scene
async def test_a_worker_heard_again_is_asked_what_it_holds(stage: Stage) -> None:
    await stage.leads(stage.a)
    hand = stage.worker()
    await hand.greets()
    await stage.submit("j1", lost_after_ms=UNREACHABLE_MS)
    run = await hand.runs()
    polling = hand.poll()
    await asyncio.sleep(UNREACHABLE_S + 5)
    assert stage.auditor.state.workers["w1"].state == "unreachable"
    assert not stage.auditor.state.leases
    hand.beats()
    async with asyncio.timeout(SOON_S):
        assert await polling == Orders(resync=True)
    await hand.greets((run.number, run.job, run.tasks))
    assert list(stage.auditor.state.leases) == [run.number], "it keeps what nobody else was given"
    await hand.ends(run)
    assert stage.auditor.open_jobs() == []


@scene
async def test_what_a_worker_should_not_have_it_is_told_to_end(stage: Stage) -> None:
    await stage.leads(stage.a)
    hand = stage.worker()
    said = await hand.greets((77, "j7", [0, 0]))
    assert said == Orders([Cancel(0, "j7", 77)])


@scene
async def test_a_restart_with_thousands_of_leases_takes_several_hellos(stage: Stage) -> None:
    await stage.leads(stage.a)
    old = stage.worker(cpus=4000)
    await old.greets()
    for n in range(3):
        jobs = [Submit(fact(f"j{n}x{m:014}", cpus_milli=1)) for m in range(1000)]
        assert len((await stage.ask(*jobs, timeout_s=30)).outcomes) == 1000
    held = 0
    while held < 3000:
        said = await old.poll(timeout_s=SOON_S)
        assert isinstance(said, Orders)
        held += len(said.orders)
    new = stage.worker(session="s2", cpus=4000)
    said = await new.greets()
    hellos = 1
    while said == Orders(resync=True):
        said = await new.greets()
        hellos += 1
    assert 1 < hellos < 10
    assert stage.auditor.state.workers["w1"].session == "s2"


# Nobody waits for nothing


async def _beside_a_busy_one(stage: Stage, cpus: int = 1) -> tuple[Hand, Hand, Run]:
    """Two workers, the second of which is full; the first has `j1`, which is tried again elsewhere if it fails."""
    await stage.leads(stage.a)
    one, two = stage.worker("w1", cpus=cpus), stage.worker("w2")
    await one.greets()
    await two.greets()
    await stage.submit("jlong", priority=10)
    await two.runs()
    await stage.submit("j1", retries=AGAIN)
    return one, two, await one.runs()


async def _left_to_another(stage: Stage) -> tuple[Hand, Hand, Polling]:
    """Two workers, and the first one's poll: it failed at `j1`, which is now kept for the second, busy one."""
    one, two, run = await _beside_a_busy_one(stage)
    await one.ends(run, code=1)
    polling = one.poll()
    await waits(polling)
    return one, two, polling


@scene
async def test_a_task_kept_for_another_machine_comes_back_when_that_one_leaves(stage: Stage) -> None:
    one, two, polling = await _left_to_another(stage)
    await two.report(bye=True)
    assert (await one.runs(polling)).attempt == 2


@scene
async def test_new_work_reaches_a_worker_that_left_a_task_to_another(stage: Stage) -> None:
    one, _, polling = await _left_to_another(stage)
    await stage.submit("j2")
    assert (await one.runs(polling)).job == "j2"


@scene
async def test_new_work_reaches_a_worker_that_just_gave_up_a_task(stage: Stage) -> None:
    one, _, run = await _beside_a_busy_one(stage, cpus=2)
    polling = one.poll()
    await waits(polling)
    await one.ends(run, code=1)
    await waits(polling)
    await stage.submit("j2")
    assert (await one.runs(polling)).job == "j2"


@scene
async def test_a_back_off_that_is_over_reaches_a_worker_that_waits(stage: Stage) -> None:
    await stage.leads(stage.a)
    hand = stage.worker()
    await hand.greets()
    await stage.submit("j1", retries=Retries(exit=1, backoff_ms=5000))
    await hand.ends(await hand.runs(), code=1)
    polling = hand.poll()
    await asyncio.sleep(4.5)
    assert not polling.done()
    assert (await hand.runs(polling)).attempt == 2


@scene
async def test_a_large_machine_gets_at_once_what_waited_for_one(stage: Stage) -> None:
    await stage.leads(stage.a)
    small, large = stage.worker("w1"), stage.worker("w2", cpus=8)
    await small.greets()
    await stage.submit("j1", cpus_milli=8000)
    await waits(small.poll())
    said = await large.greets()
    assert isinstance(said, Orders)
    assert [(type(order), order.number) for order in said.orders] == [(Run, 1)]


# Takeovers


@scene
async def test_polls_are_parked_everywhere_and_answered_by_whoever_leads(stage: Stage) -> None:
    await stage.leads(stage.a)
    stage.b.start()
    await asyncio.sleep(5)
    hand = stage.worker()
    await hand.greets()
    polling = hand.poll()
    await waits(polling)
    await stage.a.crash()
    await stage.until(stage.b.leads)
    await stage.submit("j1")
    assert (await hand.runs(polling)).job == "j1"


@scene
async def test_a_new_leader_tells_everyone_to_poll_again(stage: Stage) -> None:
    hand, polling = await _waiting(stage)
    told = asyncio.Event()
    await hand.link.subscribe("push.p.all.poll", lambda subject, reply, data: told.set())
    await stage.a.crash()
    await stage.leads(stage.b)  # it was not there when the worker polled
    await stage.submit("j1")
    await asyncio.wait_for(told.wait(), SOON_S)
    polling.cancel()
    assert (await hand.runs()).job == "j1"


@scene
async def test_a_takeover_does_not_count_the_silence_before_it(stage: Stage) -> None:
    await stage.leads(stage.a)
    stage.b.start()
    await asyncio.sleep(5)
    hand = stage.worker()
    await hand.greets()
    stage.b.link.cut_off(noticed=False)  # it hears nothing, and does not know it
    assert stage.b.way is not None
    stage.b.way.down = True
    for _ in range(100):
        hand.beats()
        await asyncio.sleep(1)
    await stage.a.crash()
    stage.b.heal()
    await stage.until(stage.b.leads)
    await asyncio.sleep(UNREACHABLE_S - 5)
    assert stage.auditor.state.workers["w1"].state == "ready"


@pytest.mark.parametrize("noticed", [True, False])
def test_a_pool_cut_off_from_everyone_loses_nobody(tmp_path: Path, noticed: bool) -> None:
    async def act(stage: Stage) -> None:
        await stage.leads(stage.a)
        hand = stage.worker()
        await hand.greets()
        stage.a.link.cut_off(noticed=noticed)
        await asyncio.sleep(100)
        state = stage.auditor.state.workers["w1"].state
        # Where it cannot know that it is cut off, it must take the silence for the worker's.
        assert state == ("ready" if noticed else "lost")

    with capture_logs():
        play(act, tmp_path)
