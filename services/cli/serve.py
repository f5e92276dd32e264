"""`up` and `serve`: the processes of a hive on this machine. What they run is put together in services.main."""

import sys
from typing import TYPE_CHECKING

import click

from services.cli import hints
from services.cli.context import Context, command
from services.cli.failure import Exit, Failure
from services.cli.output import Output

if TYPE_CHECKING:
    from infra.folder import Folder
    from services.main import Started

ROLES = ("api", "pool", "projector", "accounts", "ledger")

port_option = click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=None,
    help="Port of the HTTP API [HIVE_PORT, else 8420]; 0 takes a free one.",
)

unsafe_option = click.option(
    "--unsafe-durability",
    is_flag=True,
    default=None,
    help="Accept a NATS that acknowledges before its disk has the data: a power cut then loses acknowledged work.",
)


def _roles(_ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> frozenset[str]:
    named = [role.strip() for value in values for role in value.split(",") if role.strip()]
    for role in named:
        if role not in ROLES:
            raise click.BadParameter(f"{role!r} is not a role; the roles are {', '.join(ROLES)}")
    return frozenset(named or ROLES)


@command("up", listing=False, remote=False)
@port_option
@click.option("--workers", type=click.IntRange(0, 64), default=1, show_default=True, help="Local workers to start.")
@unsafe_option
def up(context: Context, port: int | None, workers: int, unsafe_durability: bool | None) -> int:
    """Run a hive here, with everything it needs.

    That is a control plane, an embedded nats-server, an embedded Postgres, and a worker. Everything it keeps is in the data folder; started again, it goes on where it was. Ctrl-C once lets running
    tasks finish and says what it waits for; twice stops at once. SIGHUP reads the settings again.
    """
    return _run(context, port, frozenset(ROLES), workers, "up", unsafe_durability)


@command("serve", listing=False, remote=False)
@port_option
@click.option(
    "--role",
    "roles",
    multiple=True,
    callback=_roles,
    metavar="ROLE,...",
    help=f"What this process does: {', '.join(ROLES)} [all].",
)
@unsafe_option
def serve(context: Context, port: int | None, roles: frozenset[str], unsafe_durability: bool | None) -> int:
    """Run a control plane alone.

    Workers join it with `hivectl worker run`.
    """
    return _run(context, port, roles, 0, "serve", unsafe_durability)


def _run(
    context: Context, port: int | None, roles: frozenset[str], workers: int, what: str, unsafe: bool | None
) -> int:
    context.serving = True
    from infra.logging import configure
    from services.main import CannotRun, RunOptions, Started, run

    configure(json=not sys.stderr.isatty(), level="debug" if context.debug else "warning")
    folder = context.folder()

    def started(to: Started) -> None:
        _banner(context.output, folder, to)

    options = RunOptions(folder.root, what, port, roles=roles, local_workers=workers, unsafe_durability=unsafe)
    try:
        return run(options, started, context.output.note)
    except CannotRun as error:
        raise Failure(str(error), code=Exit.UNAVAILABLE) from error


def _banner(output: Output, folder: "Folder", to: "Started") -> None:
    """Where it is, the key, and three commands to try. The key is shown at first, later only on a terminal."""
    hivectl = hints.invocation(folder)
    key = f"{folder.admin_key()}  (kept in {to.key_file})" if to.first or sys.stdout.isatty() else f"in {to.key_file}"
    output.facts([("Hive", to.url or "no API in this process"), ("Key", key), ("Data", str(to.data))])
    if to.url:
        output.line("Try, in another terminal:")
        for words in ("submit --wait -- echo hello", "jobs", "tail"):
            output.line(f"  {output.paint(f'{hivectl} {words}', 'bold')}")
    output.line("Ctrl-C stops it; started again it goes on where it was.")


COMMANDS = {"up": up, "serve": serve}
