"""Rewards over HTTP: policies, levels, the leaderboard, why a reward is what it is, and rebases."""

import asyncio
import contextlib
import hashlib
import time
from collections.abc import AsyncIterator
from contextlib import aclosing

import msgspec
from litestar import get, post, put
from litestar.params import FromPath, JSONBody

from events import catalog
from events.base import UserId
from events.catalog import LEDGER_SUBJECT, Record, pool_subject, position_text
from events.ledger import RewardPaid, RewardScored
from infra.database import DatabaseAway
from projections.base import position_in
from projections.levels import HOUR_US, Standing, level_of, next_of, uptime
from services.hosting import Refused
from services.ledger.commands import ListOwner, Rebase, SetPolicy
from services.ledger.explain import Explanation, Made, RewardFact, explain
from services.ledger.policies.base import Policy
from services.ledger.policies.registry import NAMES, POLICIES
from services.ledger.rebase import Again, Change, Rebasing, corrections
from services.ledger.rewards import known_policy
from web import schema
from web.administer import record
from web.caller import Caller, caller_of
from web.core import Core
from web.ledger_ask import ask
from web.params import CoreArg, MinPosition, money_at_least, problems
from web.problems import AnyRequest, bad_field, not_found
from web.rewards_schema import (
    ChangeView,
    LeaderboardAnswer,
    LeaderView,
    LevelsAnswer,
    LevelView,
    ListBody,
    PoliciesAnswer,
    PolicyBody,
    PolicyView,
    RebaseAnswer,
    RebaseBody,
)

SEES = ("money:own", "money:read")
OWNERS = ("workers:own", "money:own")
READ = "money:read"
ALL = "money:all"
REWARD_PARTS = 4
SCAN_MESSAGES_MAX = 200_000
"""How far behind a job's submission a reward without postings is looked for."""
LEADERS_MAX = 100
NAMES_MAX = 100
"""Looked up for one answer, at most; others are shown by their id."""
REBASE_DIGITS = 16


def _policy_view(core: Core, name: str) -> PolicyView:
    versions = [policy for policy in POLICIES if policy.name == name]
    newest = max(versions, key=lambda policy: policy.version)
    choice = core.money.view.rewards.policies.get(name)
    version = choice.version if choice else newest.version
    shown: Policy[msgspec.Struct] = next(policy for policy in versions if policy.version == version)
    return PolicyView(
        name, shown.about, choice.mode if choice else "off", version, [policy.version for policy in versions],
        choice.params if choice else {}, msgspec.structs.asdict(shown.params()),
    )  # fmt: skip


@get("/v1/rewards/policies", needs="hive:read", summary="Reward policies, and which one pays", responses=problems())
async def list_policies(core: CoreArg, min_position: MinPosition = "") -> PoliciesAnswer:
    """Every policy."""
    await money_at_least(core, min_position)
    return PoliciesAnswer([_policy_view(core, name) for name in NAMES], position_text(core.money.view.position))


@put(
    "/v1/rewards/policies/{policy:str}",
    needs=ALL,
    summary="Let a policy pay, score in the shadow, or do nothing",
    description="For what is settled from now on. The one that paid before scores in the shadow from then on.",
    responses=problems(404, 409, 422),
)
async def set_policy(
    core: CoreArg, request: AnyRequest, policy: FromPath[str], data: JSONBody[PolicyBody]
) -> schema.Done:
    """A fact on the ledger, and written down with who did it."""
    caller = caller_of(request)
    if policy not in NAMES:
        raise not_found("policy", policy, f"there are {', '.join(NAMES)}")
    outcome, position = await ask(core, caller, SetPolicy(policy, data.mode, data.version, data.params))
    if not outcome.existing:
        await record(core, caller, f"rewards.policy.{data.mode}", policy)
    return schema.Done(outcome.existing, position_text(position))


def _hours(us: int) -> float:
    """Machine hours, for people: to a thousandth."""
    return round(us / HOUR_US, 3)


@get(
    "/v1/rewards/levels",
    needs="workers:read",
    summary="Workers' machine hours, levels and uptime",
    responses=problems(),
)
async def list_levels(core: CoreArg, request: AnyRequest, min_position: MinPosition = "") -> LevelsAnswer:
    """Every worker that was ever seen. What it earned is shown to its owner, and with money:read."""
    await money_at_least(core, min_position)
    caller, view = caller_of(request), core.money.view
    found = [
        _level_view(core, caller, worker, standing)
        for worker, standing in sorted(view.rewards.standings.items(), key=lambda one: (-one[1].credited_us, one[0]))
    ]
    return LevelsAnswer(found, position_text(view.position))


def _level_view(core: Core, caller: Caller, worker: str, standing: Standing) -> LevelView:
    known = core.access.state.workers.get(worker)
    owner = known.owner if known else standing.owner
    level = level_of(standing.credited_us)
    above = next_of(level)
    share = uptime(standing, max(time.time_ns() // 1_000_000, standing.since))
    return LevelView(
        worker, owner, level.name, level.benefit, _hours(standing.credited_us), above.name if above else "",
        above.hours if above else 0, share / 10, standing.earned if caller.sees(owner, READ) else None,
    )  # fmt: skip


@get("/v1/rewards/leaderboard", needs="hive:read", summary="Owners who want to be seen", responses=problems())
async def leaderboard(core: CoreArg, request: AnyRequest, min_position: MinPosition = "") -> LeaderboardAnswer:
    """Most machine hours first; nobody is on it unasked."""
    await money_at_least(core, min_position)
    rewards, users = core.money.view.rewards, core.access.state.users
    listed = [owner for owner in rewards.listed if owner in users and users[owner].state == "active"]
    times: dict[UserId, list[int]] = {owner: [] for owner in listed}
    for standing in rewards.standings.values():
        if standing.owner in times:
            times[standing.owner].append(standing.credited_us)
    first = sorted(times, key=lambda owner: (-sum(times[owner]), owner))[:LEADERS_MAX]
    names = await _names(core, first)
    leaders = [
        LeaderView(
            rank, owner, names.get(owner, ""), level_of(max(times[owner], default=0)).name, _hours(sum(times[owner])),
            len(times[owner]), rewards.earned.get(owner, 0),
        )
        for rank, owner in enumerate(first, 1)
    ]  # fmt: skip
    return LeaderboardAnswer(
        leaders, caller_of(request).user in rewards.listed, position_text(core.money.view.position)
    )


async def _names(core: Core, owners: list[UserId]) -> dict[UserId, str]:
    """The names of the first of these users, as far as they are known now."""
    store, names = core.people.store, dict[UserId, str]()
    with contextlib.suppress(DatabaseAway):
        for owner in owners[:NAMES_MAX]:
            if (row := await store.user(owner)) is not None and row.registered:
                names[owner] = row.name
    return names


@put("/v1/rewards/leaderboard", needs=OWNERS, summary="Stand on the leaderboard, or not", responses=problems(409, 422))
async def list_me(core: CoreArg, request: AnyRequest, data: JSONBody[ListBody]) -> schema.Done:
    """The caller, under his name."""
    caller = caller_of(request)
    outcome, position = await ask(core, caller, ListOwner(caller.user, data.on))
    return schema.Done(outcome.existing, position_text(position))


# Why a reward is what it is


async def _read(core: Core, start: int, last: int) -> AsyncIterator[Record]:
    """The ledger's messages from `start` to `last`."""
    if start > last:
        return
    async with aclosing(core.log.read(LEDGER_SUBJECT, start)) as batches:
        async for entries in batches:
            for entry in entries:
                if entry.position <= last:
                    yield Record(entry.position, entry.subject, catalog.decode(entry.data))
            if not entries or entries[-1].position >= last:
                return


def _about(message: Record, reward: str) -> list[RewardFact]:
    return [
        event
        for event in message.message.events()
        if isinstance(event, RewardPaid | RewardScored) and event.reward == reward
    ]


async def _found(core: Core, reward: str, job: str) -> tuple[Record, list[RewardFact]] | None:
    """The message with the reward: by the index of what moved money, else from the job's submission on."""
    for entry in await core.money.reads.of(reward):
        at = position_in(entry.number)
        async for message in _read(core, at, at):
            if facts := _about(message, reward):
                return message, facts
    row = await core.reads.job(job)
    if row is None:
        return None
    seen = 0
    async for message in _read(core, position_in(row.number), core.money.view.position):
        if facts := _about(message, reward):
            return message, facts
        seen += 1
        if seen >= SCAN_MESSAGES_MAX:
            return None
    return None


@get(
    "/v1/rewards/{reward:str}",
    needs=SEES,
    summary="Why a reward is what it is",
    description="The evidence, the policy and its version, each term and whose word it rests on, and the result computed "
    "again. For the worker's owner, the job's owner, and with money:read.",
    responses=problems(404),
)
async def explain_reward(
    core: CoreArg, request: AnyRequest, reward: FromPath[str], min_position: MinPosition = ""
) -> Explanation:
    """Read from the log, and computed once more."""
    await money_at_least(core, min_position)
    parts = reward.split(":")
    none = not_found("reward", reward[:200], "rewards are in `hivectl statement`, as reward:JOB:LEASE:N")
    if len(parts) != REWARD_PARTS or parts[0] != "reward":
        raise none
    found = await _found(core, reward, parts[1])
    if found is None:
        raise none
    message, facts = found
    caller, row = caller_of(request), await core.reads.job(parts[1])
    if not (caller.sees(facts[0].owner, READ) or (row is not None and caller.user == row.owner)):
        raise none
    evidence: list[Record] = []
    for position in facts[0].evidence:
        entry = await core.log.get(pool_subject(core.pool), position)
        if entry is not None and entry.position == position:
            evidence.append(Record(entry.position, entry.subject, catalog.decode(entry.data)))
    told = explain(facts, message.position, message.message.at, evidence)
    made = [
        Made(one.rebase, one.policy, one.version, one.params)
        for one in core.money.view.rewards.rebases
        if one.first <= message.position <= one.last
    ]
    return msgspec.structs.replace(told, rebases=made)


# Rebases


async def _first_since(core: Core, moment: int, last: int) -> int:
    """The position of the ledger's first message recorded at `moment` (ms) or later; beyond `last` when there is none."""
    low, high = 1, last + 1
    while low < high:
        middle = (low + high) // 2
        entry = await core.log.get(LEDGER_SUBJECT, middle)
        if entry is None or entry.position > last or catalog.decode(entry.data).at >= moment:
            high = middle
        else:
            low = entry.position + 1
    return low


async def _changes(core: Core, data: RebaseBody, version: int, last: int) -> tuple[Rebasing, list[Change]]:
    start = await _first_since(core, data.since, last)
    while True:
        found = Rebasing(start)
        try:
            async for message in _read(core, start, last):
                found.take(message)
        except Again as again:
            start = again.position
        else:
            # A thread: it may take seconds, and others are to be answered meanwhile.
            return found, await asyncio.to_thread(found.changes, data.since, data.policy, version, data.params)


@post(
    "/v1/rewards/rebase",
    needs=ALL,
    status_code=200,
    summary="What rewards would have been under another policy; make it good",
    description="With `dry_run`, the default, it says who would gain and lose. Without, compensating entries are posted "
    "that cite the rebase. Asked again there is nothing left to change.",
    responses=problems(409, 422),
)
async def rebase(core: CoreArg, request: AnyRequest, data: JSONBody[RebaseBody]) -> RebaseAnswer:
    """Computed from the ledger's own facts."""
    caller = caller_of(request)
    try:
        policy = known_policy(data.policy, data.version, data.params)
        # First which rebase was the last, then the facts: one that comes in between makes this one be refused.
        await core.money.view.reached(await core.log.last(LEDGER_SUBJECT), 5.0)
        before, last = core.money.view.rewards.rebase, core.money.view.position
        found, changes = await _changes(core, data, policy.version, last)
    except Refused as error:
        raise bad_field(error.field, error.detail) from None
    made, position = "", last
    if not data.dry_run and (wanted := corrections(changes)):
        body = msgspec.json.encode((policy.key, data.params, found.first(data.since), found.position, before))
        name = f"rebase:{hashlib.sha256(body).hexdigest()[:REBASE_DIGITS]}"
        command = Rebase(
            name, policy.name, policy.version, data.params, found.first(data.since), found.position, before, wanted
        )
        outcome, position = await ask(core, caller, command)
        made = name
        if not outcome.existing:
            await record(core, caller, "rewards.rebase", name)
    names = await _names(core, sorted({change.owner for change in changes}))
    views = [
        ChangeView(one.worker, one.owner, names.get(one.owner, ""), one.before, one.after, one.rewards)
        for one in changes
    ]
    total = sum(change.rewards for change in changes)
    return RebaseAnswer(views, made, policy.name, policy.version, total, position_text(position))


ROUTES = [list_policies, set_policy, list_levels, leaderboard, list_me, rebase, explain_reward]
