"""How a worker's machine goes on: with an earlier agent's attempts, and after its computer stood still. Pure."""

from events.base import holds
from worker import gpus
from worker.messages import Adopted, Repoll, Slept
from worker.reports import join
from worker.state import Attempt, State

SLEPT_MS = 5000
"""After so long without a sign of life the platform may have concluded something: it is asked anew."""


def adopted(state: State, stimulus: Adopted) -> None:
    """Hold what an earlier agent left, but for what it left as ended on the disk."""
    for order, index, since in stimulus.attempts:
        key = (order.number, index)
        known = state.earlier.get((order.number, order.job), [])
        if key in state.running or holds(known, index):
            continue
        state.earlier[order.number, order.job] = join([known, [index, index]])
        state.running[key] = state.untold[key] = Attempt(order, index, since)
        state.used_cpus += order.cpus_milli
        state.used_memory += order.memory_bytes
        if order.gpus:
            gpus.use(state.used_gpus, order, 1)


def slept(state: State, stimulus: Slept) -> None:
    """Say hello again: the platform may have given up what runs here."""
    if stimulus.ms >= SLEPT_MS:
        state.greet = True
        state.out.append(Repoll())
