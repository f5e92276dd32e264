"""`hivectl`: finds the command's module, and turns whatever goes wrong into one or two lines and an exit code."""

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any

import click

from services.cli.context import Context
from services.cli.failure import CODES_HELP, Exit, Failure
from services.cli.output import Output

MODULES = {
    "up": "serve",
    "serve": "serve",
    "demo": "demo",
    "submit": "submit",
    "quote": "costs",
    "prices": "costs",
    "jobs": "jobs",
    "job": "jobs",
    "result": "results",
    "emit": "emit",
    "tail": "tail",
    "workers": "workers",
    "worker": "workers",
    "levels": "rewards",
    "reward": "rewards",
    "rewards": "rewards",
    "key": "keys",
    "secret": "secrets",
    "balance": "ledger",
    "transfer": "ledger",
    "transfers": "ledger",
    "statement": "ledger",
    "pending": "ledger",
    "dispute": "ledger_rule",
    "ledger": "ledger_rule",
    "audit": "audit",
    "login": "people",
    "logout": "people",
    "me": "people",
    "session": "sessions",
    "user": "people",
    "invite": "invites",
    "blob": "blobs",
    "report": "reports",
    "tls": "tls",
    "signing-key": "signing_key",
    "status": "about",
    "prove": "prove",
    "bench": "bench",
    "completion": "about",
    "version": "about",
}
"""The module of each command. Only the one that is asked for is imported: hivectl starts quickly."""


class LazyGroup(click.Group):
    """A group whose commands are imported when they are needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(MODULES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in MODULES:
            return None
        module: Any = importlib.import_module(f"services.cli.{MODULES[cmd_name]}")
        return module.COMMANDS[cmd_name]

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and not args[0].startswith("-") and args[0] not in MODULES and not ctx.resilient_parsing:
            raise click.exceptions.NoSuchCommand(args[0], possibilities=list(MODULES), ctx=ctx)
        return super().resolve_command(ctx, args)


def _version(ctx: click.Context, _param: click.Parameter, asked: bool) -> None:
    if asked and not ctx.resilient_parsing:
        from services.cli.about import show_version

        show_version(ctx.ensure_object(Context))
        ctx.exit()


@click.group(
    "hivectl",
    cls=LazyGroup,
    epilog=CODES_HELP,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Print the version and exit."
)
def cli() -> None:
    """Hive: a compute pool for machines that nobody can reach from outside.

    Start with `hivectl demo`, or leave a hive running with `hivectl up` and try
    `hivectl submit --wait -- echo hello`.
    """


def run(args: Sequence[str], output: Output | None = None) -> int:
    """Run hivectl with these arguments; the exit code. Prints what went wrong, if anything."""
    context = Context(output or Output())
    try:
        code = cli.main(list(args), prog_name="hivectl", standalone_mode=False, obj=context)
    except click.exceptions.NoArgsIsHelpError as error:
        context.output.line(error.format_message())
        return Exit.USAGE
    except (KeyboardInterrupt, click.Abort):
        context.output.note("interrupted")
        return Exit.INTERRUPTED
    except BrokenPipeError:
        # The reader of our output left (`hivectl jobs | head`); so do we, without a second error at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.OK
    except Exception as error:  # noqa: BLE001 whatever it is, people get one line and scripts an exit code
        failure = explain(error)
        context.output.failure(failure)
        if context.debug or (context.serving and failure.code == Exit.BUG):
            context.output.trace_back()
        return failure.code
    return code if isinstance(code, int) else Exit.OK


def explain(error: Exception) -> Failure:
    """What to tell people about `error`."""
    from services.cli.problems import explain_known

    if isinstance(error, Failure):
        return error
    if isinstance(error, click.UsageError):
        where = error.ctx.command_path if error.ctx else "hivectl"
        return Failure(error.format_message(), f"{where} --help", Exit.USAGE)
    if isinstance(error, click.ClickException):
        return Failure(error.format_message(), "", Exit.USAGE)
    if known := explain_known(error):
        return known
    return Failure(f"unexpected {error!r}", "the same with --debug, and report what it shows", Exit.BUG)


def main() -> None:
    """The program."""
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
