"""The writer: one answer a decision and only for what is in the log, whatever the network does."""

from events.catalog import Decision
from events.log import MemoryLog
from events.pool import WriterLed
from services.hosting import Item, Refused
from services.pool import model
from services.pool.commands import CancelJob
from services.writer import QUEUE_COMMANDS_MAX
from tests.pool_support import fact, normal, submit
from tests.writer_support import Plane, folded, jobs_in, messages, running, settled, until

# In good weather


async def test_it_takes_the_place_with_a_message(log: MemoryLog, a: Plane) -> None:
    async with running(a):
        await a.leads()
    assert [*messages(log)[0].events()] == [WriterLed("p", "a", "1")]
    assert a.host.led == 1


async def test_an_answer_names_its_message(log: MemoryLog, a: Plane) -> None:
    async with running(a):
        await a.leads()
        a.ask(submit("j1"), by="ada", cause="c", trace="t")
        assert await a.answered() == [([None], 2)]
    assert messages(log)[1].decisions == [Decision([fact("j1")], "ada", "c", "t")]
    assert a.host.sure == {"j1": "d"}


async def test_what_arrives_while_an_append_is_on_its_way_shares_the_next(log: MemoryLog, a: Plane) -> None:
    async with running(a):
        await a.leads()
        a.log.hold()
        a.ask(submit("j0"))
        await until(lambda: a.log.appends == 2)
        for n in range(1, 9):
            a.ask(submit(f"j{n}"))
        a.log.release()
        await a.answered(9)
    assert [len([*one.events()]) for one in messages(log)] == [1, 1, 8]


async def test_commands_see_what_was_decided_before_them(log: MemoryLog, a: Plane) -> None:
    async with running(a):
        await a.leads()
        a.ask(submit("j1"), submit("j1"), submit("j1", digest="e"), submit("j2", after=["j1"]))
        ((outcomes, position),) = await a.answered()
    assert outcomes[:2] == [None, False]
    assert isinstance(outcomes[2], Refused)
    assert (outcomes[3], position) == (None, 2)


async def test_the_services_own_commands_close_a_message(log: MemoryLog, a: Plane) -> None:
    async with running(a):
        await a.leads()
        a.host.closings.append(Item([submit("j9")], by="scheduler"))
        a.ask(submit("j1"))
        await a.answered()
    assert [one.by for one in messages(log)[1].decisions] == ["", "scheduler"]


async def test_what_is_offered_to_one_that_does_not_lead_is_dropped(log: MemoryLog, a: Plane) -> None:
    async with running(a):
        await settled()
        assert a.ask(submit("j1"))
        await a.leads()
        a.ask(submit("j2"))
        await a.answered()
    assert jobs_in(log) == ["j2"]


async def test_a_full_queue_says_so(a: Plane) -> None:
    async with running(a):
        await a.leads()
        a.log.hold()
        a.ask(submit("j0"))
        await until(lambda: a.log.appends == 2)
        assert a.ask(*[CancelJob("j0")] * QUEUE_COMMANDS_MAX)
        assert not a.ask(submit("j1"))


# Unknown outcomes


async def test_a_lost_acknowledgement_is_found_in_the_log(log: MemoryLog, a: Plane) -> None:
    async with running(a):
        await a.leads()
        a.log.faults.append("lost_ack")
        a.ask(submit("j1"))
        assert await a.answered() == [([None], 2)]
        a.ask(submit("j2"))
        await a.answered(2)
    assert jobs_in(log) == ["j1", "j2"]


async def test_an_append_that_never_arrived_is_sent_again(log: MemoryLog, a: Plane) -> None:
    async with running(a):
        await a.leads()
        a.log.faults.extend(("not_sent", "not_sent", "lost_ack"))
        a.ask(submit("j1"))
        assert await a.answered() == [([None], 2)]
    assert jobs_in(log) == ["j1"]


async def test_an_append_that_arrives_after_its_second_try_changes_nothing(log: MemoryLog, a: Plane) -> None:
    async with running(a):
        await a.leads()
        a.log.faults.append("late")
        a.ask(submit("j1"))
        await a.answered()
        assert await a.log.arrive() == [False]
        a.ask(submit("j2"))
        await a.answered(2)
    assert jobs_in(log) == ["j1", "j2"]


async def test_ours_followed_by_anothers_is_answered_and_then_fenced(log: MemoryLog, a: Plane, b: Plane) -> None:
    async with running(a, b):
        await a.leads()
        await settled()
        a.log.faults.append("lost_ack")
        a.ask(submit("j1"))
        await until(lambda: len(log.entries) == 2)
        await b.leads()
        await a.answered()
        a.ask(submit("j2"))
        await until(lambda: a.host.resets == 1)
        assert len(a.answers) == 1
    assert jobs_in(log) == ["j1"]


async def test_a_lost_acknowledgement_while_taking_the_place(log: MemoryLog, a: Plane) -> None:
    a.log.faults.append("lost_ack")
    async with running(a):
        await a.leads()
    assert len(log.entries) == 1


async def test_nothing_is_answered_while_the_log_is_away(log: MemoryLog, a: Plane) -> None:
    async with running(a):
        await a.leads()
        a.log.down = True
        a.ask(submit("j1"))
        await until(lambda: a.log.appends >= 3)
        a.ask(CancelJob("j9"))
        assert not a.answers
        a.log.down = False
        await a.answered(2)
    assert jobs_in(log) == ["j1"]


# Fencing


async def test_a_second_writer_fences_the_first(log: MemoryLog, a: Plane, b: Plane) -> None:
    async with running(a, b):
        await a.leads()
        a.ask(submit("j1"))
        await a.answered()
        await b.leads()
        b.ask(submit("j2"))
        await b.answered()
        a.ask(submit("j3"))
        await until(lambda: a.host.resets == 1)
        await until(lambda: a.writer.position == 4)
        assert len(a.answers) == 1
        assert not a.writer.leads
        assert not a.turn.taken
        assert normal(a.writer.state) == normal(b.writer.state)
    assert jobs_in(log) == ["j1", "j2"]
    assert a.host.sure.keys() == {"j1", "j2"}
    assert not a.host.noted


async def test_a_writer_that_was_paused_answers_nothing(log: MemoryLog, a: Plane, b: Plane) -> None:
    async with running(a, b):
        await a.leads()
        a.log.hold()
        a.ask(submit("j1"))
        await until(lambda: a.log.appends == 2)
        a.ask(submit("j2"))
        await b.leads()
        b.ask(submit("j3"))
        await b.answered()
        a.log.release()
        await until(lambda: a.host.resets == 1)
        await until(lambda: a.writer.position == 3)
    assert a.answers == []
    assert jobs_in(log) == ["j3"]


async def test_a_paused_writer_does_not_even_refuse(log: MemoryLog, a: Plane, b: Plane) -> None:
    async with running(a, b):
        await a.leads()
        a.log.hold()
        asked = a.log.asked
        a.ask(CancelJob("j1"))
        await until(lambda: a.log.asked > asked)
        await b.leads()
        b.ask(submit("j1"))
        await b.answered()
        a.log.release()
        await until(lambda: a.host.resets == 1)
    assert a.answers == []


async def test_a_refusal_is_confirmed_with_the_log(log: MemoryLog, a: Plane) -> None:
    async with running(a):
        await a.leads()
        a.log.down = True
        asked = a.log.asked
        a.ask(CancelJob("j1"))
        await until(lambda: a.log.asked > asked + 1)
        assert not a.answers
        a.log.down = False
        ((outcomes, position),) = await a.answered()
    assert isinstance(outcomes[0], Refused)
    assert position == 1


async def test_it_leads_again_after_it_was_fenced(log: MemoryLog, a: Plane, b: Plane) -> None:
    async with running(a, b):
        await a.leads()
        await b.leads()
        a.ask(submit("j1"))
        await until(lambda: a.host.resets == 1)
        await a.leads()
        a.ask(submit("j1"))
        await a.answered()
        assert a.host.led == 2
    assert jobs_in(log) == ["j1"]


async def test_two_that_take_the_place_at_once(log: MemoryLog, a: Plane, b: Plane) -> None:
    async with running(a, b):
        a.log.hold()
        b.log.hold()
        a.turn.free.set()
        b.turn.free.set()
        await settled()
        a.log.release()
        b.log.release()
        await until(lambda: len(log.entries) >= 1)
        await settled()
        for n in range(4):
            a.ask(submit(f"ja{n}"))
            b.ask(submit(f"jb{n}"))
            await settled()
        (leader,) = (plane for plane in (a, b) if plane.writer.leads)
        await leader.answered(4)
        model.check(folded(log))
        assert {*jobs_in(log)} == {f"j{leader.name}{n}" for n in range(4)} == {*leader.host.sure}
