"""Containers that a keeper left when it was killed."""

from events.protocol import Run
from infra.engine import Engine
from worker.executors.container import ContainerExecutor
from worker.keeper.wire import Kept
from worker.options import AgentOptions


def _no_output(order: Run, index: int, stream: int, data: bytes) -> None:
    """None of them is listened to."""


async def clear(engine: Engine, options: AgentOptions, kept: list[Kept]) -> None:
    """Remove them, unless there are some of a keeper that lives, which removes its own."""
    if any(one.order.kind == "container" for one in kept):
        await engine.close()
        return
    opened = await ContainerExecutor.open(
        engine, options.state / "private-images", options.worker, _no_output, lambda ran: None, lambda: None
    )
    await opened.close()
