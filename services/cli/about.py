"""`status`, `version` and `completion`."""

import asyncio
from typing import Any

import click

from services.cli.context import Context, command

SHELLS = ("bash", "zsh", "fish")


@command("status")
def status(context: Context) -> None:
    """The hive at a glance."""
    asyncio.run(_status(context))


async def _status(context: Context) -> None:
    output = context.output
    url, _, _ = context.address()
    async with context.client() as hive:
        found = await hive.status()
    if output.mode == "json":
        output.document(found)
        return
    if output.mode == "quiet":
        output.line(found.position)
        return
    output.facts(
        [
            ("hive", url),
            ("pool", found.pool),
            ("version", found.version),
            ("position", found.position),
            ("jobs", _counts(found.jobs)),
            ("tasks", _counts(found.tasks)),
            ("workers", _counts(found.workers)),
            ("database", found.database + (f", {found.lag} behind" if found.lag else "")),
            ("disk", found.disk),
        ]
    )


def _counts(by_state: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {state}" for state, count in by_state.items() if count) or "none"


@command("version", remote=False)
def version(context: Context) -> None:
    """Print the version of this program."""
    show_version(context)


def show_version(context: Context) -> None:
    """Print the version, and what it runs on."""
    import platform

    from services.version import VERSION

    facts = {"version": VERSION, "python": platform.python_version(), "platform": platform.platform()}
    if context.output.mode == "json":
        context.output.document(facts)
    elif context.output.mode == "quiet":
        context.output.line(VERSION)
    else:
        context.output.line(f"hivectl {VERSION}, Python {facts['python']}, {facts['platform']}")


@command("completion", listing=False, remote=False)
@click.argument("shell", type=click.Choice(SHELLS))
def completion(context: Context, shell: str) -> None:
    """Print the completion script of a shell.

    bash and zsh: put `eval "$(hivectl completion bash)"` into your shell's start-up file.
    fish: `hivectl completion fish > ~/.config/fish/completions/hivectl.fish`.
    """
    from click.shell_completion import get_completion_class

    from services.cli.main import cli

    kind: Any = get_completion_class(shell)
    context.output.line(kind(cli, {}, "hivectl", "_HIVECTL_COMPLETE").source())


COMMANDS = {"status": status, "version": version, "completion": completion}
