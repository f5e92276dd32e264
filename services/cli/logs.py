"""Copies what tasks wrote to this terminal."""

import contextlib
from typing import TYPE_CHECKING

from services.cli import format
from services.cli.output import Output

if TYPE_CHECKING:
    from web.client import AsyncHive


async def copy_output(
    output: Output, hive: "AsyncHive", job: str, index: int, *, follow: bool, stream: str = "both"
) -> None:
    """Write the output of one task's latest attempt, until its end when `follow`."""
    async with contextlib.aclosing(hive.logs(job, index, follow=follow, stream=stream)) as pieces:
        async for piece in pieces:
            if piece.stream == "mark":
                output.note(f"[{format.plain(piece.data.decode(errors='replace').strip())}]")
            else:
                output.raw(piece.data, piece.stream)
