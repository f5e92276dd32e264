"""`secret set|list|remove`: values that tasks find in their environment, and that stand nowhere else."""

import asyncio
import sys
import time

import click

from services.cli import format
from services.cli.context import Context, command
from services.cli.failure import Exit, Failure

HEADS = ("NAME", "SET")


@click.group("secret")
def secret() -> None:
    """Secrets for tasks: set, list and remove them; `hivectl submit --secret` puts them into a job's environment."""


@command("set")
@click.argument("name")
def set_(context: Context, name: str) -> None:
    """Set a secret; asks for its value, or reads it from standard input.

    Tasks that start from now on get this value. It is shown to nobody again, and never stands on a command line.

    \b
    Example:
      hivectl secret set DB_PASSWORD < password.txt
      hivectl submit --secret DB_PASSWORD -- ./load
    """
    asyncio.run(_set(context, name, _value(name)))


def _value(name: str) -> str:
    if sys.stdin.isatty():
        return click.prompt(f"Value of {name}", hide_input=True, confirmation_prompt=True, err=True)
    value = sys.stdin.read()
    # Files and `echo` end with a line break that is not meant; a longer text keeps its own.
    value = value.removesuffix("\n").removesuffix("\r") if value.count("\n") == 1 else value
    if not value:
        raise Failure("standard input is empty", f"hivectl secret set {name} < FILE", Exit.USAGE)
    return value


async def _set(context: Context, name: str, value: str) -> None:
    async with context.client() as hive:
        await hive.access.set_secret(name, value)
    context.output.note(f"set; a job gets it with: hivectl submit --secret {name} -- COMMAND")


@command("list")
def list_(context: Context) -> None:
    """List your secrets: names, and when they were set."""
    asyncio.run(_list(context))


async def _list(context: Context) -> None:
    output = context.output
    async with context.client() as hive:
        found = await hive.access.secrets()
    if output.mode == "json":
        output.document(found)
    elif output.mode == "quiet":
        for one in found:
            output.line(one.name)
    elif not found:
        output.note("no secrets yet; set one with: hivectl secret set NAME")
    else:
        now = time.time()
        output.table(HEADS, [(one.name, format.ago(one.set_at, now)) for one in found])


@command("remove")
@click.argument("name")
def remove(context: Context, name: str) -> None:
    """Destroy a secret; tasks that still wait for it are rejected."""
    asyncio.run(_remove(context, name))


async def _remove(context: Context, name: str) -> None:
    async with context.client() as hive:
        await hive.access.remove_secret(name)
    context.output.note(f"{name} is destroyed")


for one in (set_, list_, remove):
    secret.add_command(one)
COMMANDS = {"secret": secret}
