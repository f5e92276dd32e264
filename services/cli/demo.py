"""`demo`: a hive of its own, a real job through every part of it, and the proof from the log. See `demo_steps`."""

import asyncio

from services.cli.context import Context, command
from services.cli.failure import Failure


@command("demo", remote=False)
def demo(context: Context) -> int:
    """Run a real job, then prove its result from the log.

    Starts a control plane and two workers in the data folder, indexes the source files of this Python's standard
    library with an array of tasks, merges what they found, and folds the log again in a fresh process.
    """
    from services.cli.demo_steps import Demo

    if running := context.folder().running():
        raise Failure(
            f"`{running.command}` (process {running.pid}) runs in {context.folder().root}; the demo needs a folder of its own",
            "stop it with Ctrl-C, or: hivectl demo --data /tmp/hive-demo",
        )
    return asyncio.run(Demo(context.output, context.folder()).run())


COMMANDS = {"demo": demo}
