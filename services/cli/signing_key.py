"""`signing-key show|rotate`: the key with which this hive signs what it says to workers. Done in the data folder."""

import click

from services.cli.context import Context, command


@click.group("signing-key")
def signing_key() -> None:
    """The key that signs what workers are told: each knows it, and obeys nobody else."""


@command("show", remote=False)
def show(context: Context) -> None:
    """Show its public half, as workers keep it in `keys/hive.pub` of their folders."""
    from infra.signing_key import SigningKey

    known = SigningKey.of(context.folder())
    if context.output.mode == "json":
        context.output.document({"key": known.signer.public_key, "before": [link.key for link in known.chain[:-1]]})
        return
    context.output.line(known.signer.public_key)


@command("rotate", listing=False, remote=False)
def rotate(context: Context) -> None:
    """Make another one, which the present one vouches for.

    For when somebody may have seen the data folder's keys, or now and then. The hive takes it at its next start, and workers
    follow by themselves; what they run goes on. Processes of the hive on other machines need a copy of keys/signing.json.
    """
    from infra.signing_key import rotate as rotate_

    context.output.line(rotate_(context.folder()))
    context.output.note("made: the hive takes it at its next start, and its workers follow within seconds")


for one in (show, rotate):
    signing_key.add_command(one)

COMMANDS = {"signing-key": signing_key}
