"""`audit ledger` and `audit export`: add the ledger up again on one's own machine, from its log alone."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from services.cli import format
from services.cli.context import Context, command
from services.cli.failure import Exit, Failure
from services.cli.ledger import cpt

if TYPE_CHECKING:
    from services.ledger.audit import Audit
    from web.client import AsyncHive

ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
TRIES = 20
PAUSE_S = 0.25
SHOWN_MAX = 5
LINE_BYTES_MAX = 4 * 1024**2


@click.group("audit")
def audit() -> None:
    """Add everything up again, from the log alone, on your own machine."""


@command("ledger")
@click.option("--from-file", "file", type=click.Path(path_type=Path, dir_okay=False, exists=True),
              help="An export, in place of the hive that runs.")  # fmt: skip
@click.option("--balances", is_flag=True, help="Print every balance, too.")
def audit_ledger(context: Context, file: Path | None, balances: bool) -> int:
    """Recompute every balance from the first entry on, and check all that must hold.

    Without --from-file the log comes from the hive, and what it says of each account must be what the log says. What
    holds is on the page docs/ledger.md; nothing that is sealed is opened.
    """
    from services.ledger.audit import Wrong

    began = time.monotonic()
    try:
        if file is not None:
            done = of_file(file)
            left = done.finish()
            differences: list[str] = []
        else:
            done, left, differences = asyncio.run(_live(context))
    except Wrong as wrong:
        if context.output.mode == "json":
            context.output.document({"equal": False, "position": wrong.position, "wrong": wrong.what})
            return Exit.JOB_FAILED
        raise Failure(f"the ledger does not add up: {wrong}", "docs/ledger.md says what must hold", Exit.JOB_FAILED) from None  # fmt: skip
    return _say(context, done, left, differences, balances, time.monotonic() - began)


def _say(
    context: Context, done: "Audit", left: dict[str, int], differences: list[str], balances: bool, took_s: float
) -> int:
    output = context.output
    said: dict[str, Any] = {
        "equal": not differences, "entries": done.entries, "messages": done.messages, "accounts": len(left),
        "supply": -left.get("mint", 0), "position": f"1.{done.position}", "seconds": round(took_s, 3),
        "differences": differences,
    }  # fmt: skip
    if output.mode == "json":
        output.document(said | ({"balances": left} if balances else {}))
        return Exit.JOB_FAILED if differences else Exit.OK
    if balances:
        output.table(("ACCOUNT", "CPT"), [(name, cpt(left[name])) for name in sorted(left)], empty="no account has any")
    if differences:
        shown = "; ".join(differences[:SHOWN_MAX])
        raise Failure(f"{format.count(len(differences), 'account')} differ from the log: {shown}", "", Exit.JOB_FAILED)
    output.line(
        f"audited: {format.count(done.entries, 'entry', 'entries')}, "
        f"{format.count(len(left), 'account')}, {cpt(said['supply'])} CPT in all; everything adds up"
    )
    output.note(f"  {done.messages:,} messages up to position {said['position']}, {took_s:.1f} s")
    return Exit.OK


def of_file(file: Path) -> "Audit":
    """An export added up. Raises Wrong, Failure."""
    import msgspec

    from services.ledger.audit import FORMAT, Audit, Wrong, add_line, head_of

    done = Audit()
    with _opened(file) as stream:
        lines = iter(stream)
        try:
            head = head_of(next(lines, b""))
        except msgspec.DecodeError:
            raise Failure(
                f"{file} is no export of a ledger", "hivectl audit export FILE makes one", Exit.USAGE
            ) from None
        if head.hive_ledger != FORMAT:
            raise Failure(f"{file} is of a newer version of Hive", "upgrade this one", Exit.USAGE)
        for line in lines:
            add_line(done, line)
    if done.position != head.last:
        raise Wrong(done.position, f"the export ends here; it says that it goes up to {head.last}")
    return done


def _opened(file: Path) -> IO[bytes]:
    stream = file.open("rb")
    if stream.read(4) != ZSTD_MAGIC:
        stream.seek(0)
        return stream
    import io

    import zstandard

    stream.seek(0)
    return io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(stream, closefd=True), 1024**2)  # pyright: ignore[reportArgumentType]


async def _lines(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """What comes in pieces, line by line. Raises Failure for a line that never ends."""
    rest = b""
    async for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        for line in whole:
            yield line
        if len(rest) > LINE_BYTES_MAX:
            raise Failure("the export has a line without an end", "is this a hive of this version?")


async def _live(context: Context) -> "tuple[Audit, dict[str, int], list[str]]":
    """The hive's log added up, and where the hive says something else. Raises Wrong, Failure."""
    from services.ledger.audit import Audit, add_line, head_of

    for _ in range(TRIES):
        async with context.client() as hive:
            before = await _accounts(hive)
            done, head = Audit(), None
            async with aclosing(hive.ledger.export()) as pieces:
                async for line in _lines(pieces):
                    if head is None:
                        head = head_of(line)
                    else:
                        add_line(done, line)
            if head is None or done.position != head.last:
                raise Failure("the export broke off", "try again", Exit.UNAVAILABLE)
        if before is not None and before[0] == f"1.{done.position}":
            left = done.finish()
            names = sorted(left.keys() | before[1].keys())
            return done, left, [
                f"{name}: the log says {left.get(name, 0)}, the hive {before[1].get(name, 0)}"
                for name in names if left.get(name) != before[1].get(name)
            ]  # fmt: skip
        await asyncio.sleep(PAUSE_S)
    raise Failure(
        "the ledger is too busy to be compared: it grew during every look",
        "hivectl audit export FILE, then hivectl audit ledger --from-file FILE", Exit.UNAVAILABLE,
    )  # fmt: skip


async def _accounts(hive: "AsyncHive") -> tuple[str, dict[str, int]] | None:
    """Position and balances as the hive has them; None when they moved meanwhile."""
    after: str | None = ""
    found: dict[str, int] = {}
    position = ""
    while after is not None:
        page = await hive.ledger.accounts(after)
        if position and page.position != position:
            return None
        position, after = page.position, page.next
        found |= {one.account: one.balance for one in page.accounts}
    return position, found


@command("export", listing=False)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
def export(context: Context, file: Path) -> None:
    """Write the ledger's log to FILE, to be audited anywhere; compressed when its name ends with .zst.

    It names users by their ids alone, and holds amounts; memos and reasons in it are sealed, and nobody who gets it
    can open them.
    """
    part = file.with_name(f"{file.name}.part")
    try:
        size = asyncio.run(_export(context, part, file.suffix == ".zst"))
        part.replace(file)
    except OSError as error:
        raise Failure(f"{file} cannot be written: {error}", "", Exit.USAGE) from None
    finally:
        part.unlink(missing_ok=True)
    context.output.note(f"{size:,} bytes; audit them with: hivectl audit ledger --from-file {file}")


async def _export(context: Context, file: Path, packed: bool) -> int:
    import zstandard

    size = 0
    with file.open("wb") as plain:
        stream: Any = zstandard.ZstdCompressor().stream_writer(plain, closefd=False) if packed else plain
        async with context.client() as hive, aclosing(hive.ledger.export()) as pieces:
            async for piece in pieces:
                stream.write(piece)
                size += len(piece)
        if packed:
            stream.close()
    return size


for one in (audit_ledger, export):
    audit.add_command(one)
COMMANDS = {"audit": audit}
