"""`reward explain`, `rewards policy|rebase`, `levels`: what workers' owners earn, by which rules, and why."""

import asyncio
import re
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from services.cli import format
from services.cli.context import Context, command
from services.cli.failure import Exit, Failure
from services.cli.options import Parsed, parse_duration

if TYPE_CHECKING:
    from events.ledger import PolicyMode, Term
    from services.ledger.explain import Explanation, Scoring
    from web.rewards_schema import RebaseAnswer

MICRO = 1_000_000
MINUTE_US = 60_000_000
POLICY_HEADS = ("POLICY", "MODE", "VERSION", "PARAMETERS", "ABOUT")
LEVEL_HEADS = ("WORKER", "LEVEL", "HOURS", "NEXT", "UPTIME", "EARNED", "OWNER")
LEADER_HEADS = ("RANK", "NAME", "LEVEL", "HOURS", "WORKERS", "EARNED")
CHANGE_HEADS = ("WORKER", "OWNER", "REWARDS", "DUE BEFORE", "DUE AFTER", "CHANGE")
TERM_HEADS = ("TERM", "VALUE", "WHOSE WORD")
WORDS = {
    "platform": "the platform's own",
    "reservation": "what the job reserved",
    "report": "the worker's report alone",
    "agreed": "two workers agreed",
    "policy": "the policy",
}


def parse_moment(text: str) -> int:
    """Milliseconds since 1970 of 2026-11-01, 2026-11-01T12:00Z, or a span ago such as 7d or 12h. Raises ValueError."""
    try:
        if re.match(r"\d{4}-\d\d-\d\d", text):
            moment = datetime.fromisoformat(text)
            return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)
        return round((time.time() - parse_duration(text)) * 1000)
    except ValueError:
        raise ValueError(
            f"{text!r} is not a moment; write it like 2026-11-01, 2026-11-01T12:00 (UTC), or 7d (ago)"
        ) from None


def parse_param(text: str) -> tuple[str, int]:
    """Name and whole number of NAME=NUMBER. Raises ValueError."""
    name, _, value = text.partition("=")
    if not name or not re.fullmatch(r"-?\d{1,18}", value):
        raise ValueError(f"{text!r} is not NAME=NUMBER, such as base=12000000")
    return name, int(value)


def parse_policy(text: str) -> tuple[str, int]:
    """Name and version of NAME or NAME@VERSION. Raises ValueError."""
    name, at, version = text.partition("@")
    if not name or (at and not re.fullmatch(r"\d{1,6}", version)):
        raise ValueError(f"{text!r} is not NAME or NAME@VERSION, such as usage@1")
    return name, int(version or 0)


MOMENT = Parsed("WHEN", parse_moment)
RULE_PARAM = Parsed("NAME=NUMBER", parse_param)
POLICY = Parsed("NAME[@VERSION]", parse_policy)


def cpt(micro: int) -> str:
    """µCPT as CPT: 1.5 CPT."""
    whole, part = divmod(abs(micro), MICRO)
    sign = "-" if micro < 0 else ""
    return f"{sign}{whole:,}" + (f".{part:06d}".rstrip("0") if part else "") + " CPT"


@click.group("reward")
def reward() -> None:
    """A reward: why it is what it is."""


@command("explain")
@click.argument("id")
def explain(context: Context, id: str) -> None:
    """Explain a reward: its evidence on the log, the policy, each term and whose word it rests on, the result.

    Everything is read from the log and computed once more; exit code 1 when it comes to something else.
    IDs are in `hivectl statement`: reward:JOB:LEASE:N.
    """
    asyncio.run(_explain(context, id))


async def _explain(context: Context, id: str) -> None:
    output = context.output
    async with context.client() as hive:
        told = await hive.rewards.explain(id)
    if output.mode == "json":
        output.document(told)
    elif output.mode == "quiet":
        output.line(str(told.amount))
    else:
        _show(context, told)
    if not told.holds:
        raise Failure(
            "; ".join(told.wrong), "report it: nothing on the log may disagree with its evidence", Exit.JOB_FAILED
        )


def _show(context: Context, told: "Explanation") -> None:
    output = context.output
    output.facts(
        [
            ("reward", told.reward),
            ("worker", told.worker),
            ("owner", told.owner),
            ("recorded", f"{format.clock(told.at)} at {told.position}"),
            ("due", cpt(told.amount)),
            ("paid", cpt(told.paid) if told.paid != told.amount else ""),
        ]
    )
    output.line()
    output.line("Evidence")
    for one in told.evidence:
        output.line(
            f"  {one.position}  {format.clock(one.at)}  {one.type}  job {one.job} tasks {_runs(one.tasks)} lease {one.lease}, by {one.by}"
        )
    output.line()
    output.line("Work (shares of what was reserved)")
    for work in told.work:
        output.line(
            f"  {format.count(work.tasks, 'task')} of {_machine(work.machine_us)}: CPU {_share(work.cpu)}, memory {_share(work.memory)},"
            f" GPU {_share(work.gpu)}, {'succeeded' if work.done else 'did not succeed'}"
        )
    for scoring in told.policies:
        _show_scoring(context, scoring)
    for made in told.rebases:
        output.line()
        output.line(f"Since then rebased: {made.policy}@{made.version} decides what is due ({made.rebase})")
    output.note("computed again from its evidence: the same" if told.holds else "")


def _show_scoring(context: Context, scoring: "Scoring") -> None:
    output = context.output
    output.line()
    how = "pays" if scoring.pays else "in the shadow"
    params = "".join(f" {name}={value}" for name, value in scoring.params.items())
    output.line(f"{scoring.policy}@{scoring.version}{params} ({how}): {cpt(scoring.amount)}")
    output.table(TERM_HEADS, [(f"  {term.name}", _value(term), WORDS[term.word]) for term in scoring.terms])


def _value(term: "Term") -> str:
    match term.unit:
        case "µCPT":
            return cpt(term.value)
        case "µs":
            return _machine(term.value)
        case "ms":
            return f"{term.value / 1000:g} s"
        case "‰":
            return f"{term.value / 10:g} %"
        case "milli":
            return f"{term.value / 1000:g}"
        case "parts":
            return f"{term.value} parts of a µCPT"
        case _:
            return f"{term.value} {term.unit}".rstrip()


def _machine(us: int) -> str:
    return f"{us / 60 / MINUTE_US:.4g} machine hours" if us >= MINUTE_US else f"{us / MICRO:g} machine seconds"


def _share(thousandths: int) -> str:
    return "not reserved" if thousandths < 0 else f"{thousandths / 10:g} %"


def _runs(runs: list[int]) -> str:
    pairs = zip(runs[::2], runs[1::2], strict=True)
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in pairs)


@click.group("rewards")
def rewards() -> None:
    """By which rules workers' owners are paid: policies, and rebases."""


@command("policy")
@click.argument("policy", required=False, type=POLICY)
@click.option("--pay", "mode", flag_value="paying", help="It pays from now on; the one before scores in the shadow.")
@click.option("--shadow", "mode", flag_value="shadow", help="It scores beside the one that pays; nobody is paid by it.")
@click.option("--off", "mode", flag_value="off", help="It does nothing.")
@click.option(
    "--set", "params", multiple=True, type=RULE_PARAM, help="A parameter; amounts in µCPT, factors in percent."
)
def policy(
    context: Context, policy: tuple[str, int] | None, mode: "PolicyMode | None", params: tuple[tuple[str, int], ...]
) -> None:
    """Show the reward policies, or choose what one of them does. They are described in docs/rewards.md.

    \b
    Examples:
      hivectl rewards policy
      hivectl rewards policy contribution --shadow
      hivectl rewards policy usage@1 --pay --set base=12000000 --set reported_max=100
    """
    if policy is None and (mode or params):
        raise Failure("which policy?", "hivectl rewards policy NAME --pay", Exit.USAGE)
    if policy is not None and not mode:
        raise Failure(
            "say what it is to do", f"hivectl rewards policy {policy[0]} --pay, --shadow or --off", Exit.USAGE
        )
    asyncio.run(_policy(context, policy, mode, dict(params)))


async def _policy(
    context: Context, policy: tuple[str, int] | None, mode: "PolicyMode | None", params: dict[str, int]
) -> None:
    output = context.output
    async with context.client() as hive:
        position = ""
        if policy is not None and mode:
            position = (await hive.rewards.set_policy(policy[0], mode, version=policy[1], params=params)).position
        found = await hive.rewards.policies(min_position=position)
    if output.mode == "json":
        output.document(found)
    elif output.mode == "quiet":
        for one in found:
            if one.mode == "paying":
                output.line(one.policy)
    else:
        rows = [
            (
                one.policy,
                one.mode,
                str(one.version),
                " ".join(f"{k}={v}" for k, v in one.params.items()) or "-",
                one.about,
            )
            for one in found
        ]
        output.table(POLICY_HEADS, rows)
        if not any(one.mode == "paying" for one in found):
            output.note("no policy pays; choose one with: hivectl rewards policy NAME --pay")


@command("rebase")
@click.option("--policy", "rule", required=True, type=POLICY, help="The policy that is right.")
@click.option("--since", required=True, type=MOMENT, help="From when on: 2026-11-01 (UTC), or 7d (ago).")
@click.option("--set", "params", multiple=True, type=RULE_PARAM, help="A parameter of the policy.")
@click.option("--dry-run", is_flag=True, help="Say who would gain and who would lose, and change nothing.")
@click.option("--yes", is_flag=True, help="Do not ask before it is posted.")
def rebase(
    context: Context, rule: tuple[str, int], since: int, params: tuple[tuple[str, int], ...], dry_run: bool, yes: bool
) -> None:
    """Pay past rewards as a corrected policy has them: compensating entries, exact to the µCPT.

    What an owner has spent already is kept back from what he earns next. Asked for again there is nothing to change.

    \b
    Example:
      hivectl rewards rebase --policy usage --set base=12000000 --since 2026-11-01 --dry-run
    """
    asyncio.run(_rebase(context, rule, since, dict(params), dry_run, yes))


async def _rebase(
    context: Context, rule: tuple[str, int], since: int, params: dict[str, int], dry_run: bool, yes: bool
) -> None:
    output = context.output
    name, version = rule
    async with context.client() as hive:
        found = await hive.rewards.rebase(name, since, version=version, params=params)
        changed = any(one.before != one.after for one in found.changes)
        if not dry_run and changed:
            if not yes and output.mode == "text":
                _show_changes(context, found)
                click.confirm("Post these corrections?", abort=True, err=True)
            found = await hive.rewards.rebase(name, since, version=version, params=params, dry_run=False)
    if output.mode == "json":
        output.document(found)
    elif output.mode == "quiet":
        if found.rebase:
            output.line(found.rebase)
    elif found.rebase:
        output.note(f"posted as {found.rebase}, at {found.position}")
        if yes:
            _show_changes(context, found)
    else:
        _show_changes(context, found)
        if dry_run and changed:
            output.note("nothing was changed; the same without --dry-run posts it")


def _show_changes(context: Context, found: "RebaseAnswer") -> None:
    output = context.output
    rows = [
        (
            one.worker,
            one.name or one.owner,
            str(one.rewards),
            cpt(one.before),
            cpt(one.after),
            cpt(one.after - one.before),
        )
        for one in found.changes
        if one.before != one.after
    ]
    same = f"{format.count(found.rewards, 'reward')}, and nothing changes under {found.policy}@{found.version}"
    output.table(CHANGE_HEADS, rows, empty=same)


@command("levels")
@click.option("--leaderboard", is_flag=True, help="The owners who asked to be seen, most hours first.")
@click.option("--list-me/--unlist-me", "listed", default=None, help="Stand on the leaderboard by name, or no more.")
def levels(context: Context, leaderboard: bool, listed: bool | None) -> None:
    """Show workers' machine hours, levels and uptime; or the leaderboard, on which nobody stands unasked."""
    asyncio.run(_levels(context, leaderboard, listed))


async def _levels(context: Context, leaderboard: bool, listed: bool | None) -> None:
    async with context.client() as hive:
        position = ""
        if listed is not None:
            position = (await hive.rewards.list_me(listed)).position
        if leaderboard or listed is not None:
            board = await hive.rewards.leaderboard(min_position=position)
            rows = [
                (
                    str(one.rank),
                    one.name or one.owner,
                    one.level or "-",
                    f"{one.hours:g}",
                    str(one.workers),
                    cpt(one.earned),
                )
                for one in board.leaders
            ]
            _print(context, board, LEADER_HEADS, rows, [one.owner for one in board.leaders], "nobody asked to be on it")
            return
        found = await hive.rewards.levels()
    rows = [
        (
            one.worker, one.level or "-", f"{one.hours:g}", f"{one.next} at {one.next_hours:,}" if one.next else "-",
            f"{one.uptime:g} %", "-" if one.earned is None else cpt(one.earned), one.owner,
        )
        for one in found
    ]  # fmt: skip
    _print(context, found, LEVEL_HEADS, rows, [one.worker for one in found], "no workers yet")


def _print(
    context: Context,
    value: object,
    heads: tuple[str, ...],
    rows: list[tuple[str, ...]],
    ids: list[str],
    empty: str,
) -> None:
    if context.output.mode == "json":
        context.output.document(value)
    elif context.output.mode == "quiet":
        for one in ids:
            context.output.line(one)
    else:
        context.output.table(heads, rows, empty=empty)


reward.add_command(explain)
for one in (policy, rebase):
    rewards.add_command(one)
COMMANDS = {"reward": reward, "rewards": rewards, "levels": levels}
