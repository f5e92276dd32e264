"""`blob put|get|expire`: files by the SHA-256 of their bytes."""

import asyncio
from pathlib import Path

import click

from events.units import size_text
from services.cli import format
from services.cli.context import Context, command


@click.group("blob")
def blob() -> None:
    """Store files by their digest, and get them back."""


@command("put")
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
def put(context: Context, paths: tuple[Path, ...]) -> None:
    """Upload files and print their digests, one a line. What the hive has already is not sent again."""
    asyncio.run(_put(context, paths))


async def _put(context: Context, paths: tuple[Path, ...]) -> None:
    output = context.output
    async with context.client() as hive:
        blobs = [await hive.upload(path) for path in paths]
    if output.mode == "json":
        output.document(
            [{"path": str(path), "digest": b.digest, "size": b.size} for path, b in zip(paths, blobs, strict=True)]
        )
        return
    for path, stored in zip(paths, blobs, strict=True):
        said = stored.digest if output.mode == "quiet" else f"{stored.digest}  {format.plain(str(path))}"
        output.line(said)


@command("get")
@click.argument("digest")
@click.option("-o", "--to", type=click.Path(path_type=Path, dir_okay=False), help="Write it here [standard output].")
def get(context: Context, digest: str, to: Path | None) -> None:
    """Download a blob; its bytes are checked against its digest."""
    asyncio.run(_get(context, digest, to))


async def _get(context: Context, digest: str, to: Path | None) -> None:
    async with context.client() as hive:
        if to is not None:
            await hive.download(digest, to)
            context.output.note(f"{size_text(to.stat().st_size)} in {to}")
            return
        context.output.raw(await hive.download(digest))


@command("expire")
@click.option("--dry-run", is_flag=True, help="Only say what would be deleted.")
def expire(context: Context, dry_run: bool) -> None:
    """Delete the files that nothing needs any more; for admins.

    Nothing goes that an open job names, or one that ended less than `keep_days` ago (a setting; 0 keeps what jobs name and
    people uploaded for ever), and nothing that was wanted in the last two days. With `keep_days` a hive does so daily.
    """
    asyncio.run(_expire(context, dry_run))


async def _expire(context: Context, dry_run: bool) -> None:
    output = context.output
    async with context.client() as hive:
        done = await hive.expire_blobs(dry_run=dry_run)
    if output.mode == "json":
        output.document(done)
        return
    does = "would be deleted" if dry_run else "deleted"
    jobs = f", and the output of {format.count(done.outputs, 'job')}" if done.outputs else ""
    output.line(f"{format.count(done.blobs, 'blob')}, {size_text(done.size)}{jobs}: {does}")
    for digest in done.some if dry_run else ():
        output.note(f"  {digest}")
    kept = f"{done.keep_days} days after their jobs" if done.keep_days else "for ever (the setting keep_days is 0)"
    output.note(f"{format.count(done.needed, 'blob')} needed; what jobs name is kept {kept}")


blob.add_command(put)
blob.add_command(expire)
blob.add_command(get)

COMMANDS = {"blob": blob}
