"""`blob put|get`: files by the SHA-256 of their bytes."""

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


blob.add_command(put)
blob.add_command(get)

COMMANDS = {"blob": blob}
