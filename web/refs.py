"""Names that jobs of one request have for each other: `ref`, replaced by the ids that the jobs get. Pure."""

import re
from collections.abc import Callable, Iterable
from graphlib import CycleError, TopologicalSorter

import msgspec

from events.base import JobId
from events.spec import BadSpec, Input, JobSpec

JOB_ID = re.compile(r"j[a-z2-7]{16}\Z")
REF = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")

Place = Callable[[int], str]
"""The path of a job in the request, with a dot when it is not empty: `jobs[3].`, or nothing for a single one."""


def needs_resolving(spec: JobSpec) -> bool:
    """Whether the job names others, or can be named."""
    return bool(spec.ref or spec.after or (spec.inputs and any(file.job for file in spec.inputs)))


def resolve(specs: list[JobSpec], ids: list[JobId], place: Place) -> tuple[list[JobSpec], list[int]]:
    """The jobs with ids in place of refs, and an order in which each comes after those it waits for.

    A job whose results are an input is waited for too. Raises BadSpec: a ref that is none or used twice, an entry that
    is neither a ref nor an id, a cycle.
    """
    refs = _refs(specs, place)
    resolved: list[JobSpec] = []
    waits: dict[int, set[int]] = {}
    for number, spec in enumerate(specs):
        waits[number] = set()

        def job_of(name: str, field: str, number: int = number) -> JobId:
            if (other := refs.get(name)) is not None:
                waits[number].add(other)
                return ids[other]
            if JOB_ID.match(name):
                return name
            raise BadSpec(
                f"{place(number)}{field}",
                f"{name[:80]!r} is neither the id of a job nor the ref of one in this request; submit that job first, or with this one",
            )

        after = [job_of(name, f"after[{at}]") for at, name in enumerate(spec.after)]
        inputs = [
            Input(file.path, job=job_of(file.job, f"inputs[{at}].job")) if file.job else file
            for at, file in enumerate(spec.inputs)
        ]
        after = list(dict.fromkeys([*after, *(file.job for file in inputs if file.job)]))
        resolved.append(msgspec.structs.replace(spec, after=after, inputs=inputs, ref=""))
    return resolved, _order(waits, specs, place)


def _refs(specs: list[JobSpec], place: Place) -> dict[str, int]:
    refs: dict[str, int] = {}
    for number, spec in enumerate(specs):
        if not spec.ref:
            continue
        field = f"{place(number)}ref"
        if not REF.match(spec.ref) or JOB_ID.match(spec.ref):
            raise BadSpec(
                field, f"{spec.ref[:80]!r} must be 1 to 64 of A-Z, a-z, 0-9, '.', '_' and '-', and no job's id"
            )
        if spec.ref in refs:
            first = place(refs[spec.ref]).rstrip(".")
            raise BadSpec(field, f"{spec.ref!r} is the ref of {first} too; give each job a ref of its own")
        refs[spec.ref] = number
    return refs


def _order(waits: dict[int, set[int]], specs: list[JobSpec], place: Place) -> list[int]:
    if not any(waits.values()):
        return list(range(len(specs)))
    try:
        return list(TopologicalSorter(waits).static_order())
    except CycleError as error:
        # Each in the list is waited for by the one that follows it; the first is the last again.
        cycle: list[int] = error.args[1][::-1]
    start = cycle.index(min(cycle))
    turned = [*cycle[start:-1], *cycle[:start], min(cycle)] if start else cycle
    raise BadSpec(f"{place(turned[0])}after", f"is a cycle: {_told(turned, specs)}; no job of it could ever start")


def _told(cycle: Iterable[int], specs: list[JobSpec]) -> str:
    return " waits for ".join(f"{specs[number].ref or number!r}" for number in cycle)
