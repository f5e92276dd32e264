"""Copies what tasks wrote to this terminal."""

import contextlib
from typing import TYPE_CHECKING

from services.cli import format
from services.cli.output import Output

if TYPE_CHECKING:
    from web.client import AsyncHive
    from web.client.types import Piece


async def copy_output(
    output: Output, hive: "AsyncHive", job: str, index: int, *, follow: bool, stream: str = "both", times: bool = False
) -> None:
    """Write the output of one task's latest attempt, until its end when `follow`; `times`: each line with its time."""
    stamps = Stamps() if times else None
    async with contextlib.aclosing(hive.logs(job, index, follow=follow, stream=stream)) as pieces:
        async for piece in pieces:
            if piece.stream == "mark":
                output.note(f"[{format.plain(piece.data.decode(errors='replace').strip().strip('[]'))}]")
            else:
                output.raw(stamps.put(piece) if stamps else piece.data, piece.stream)


class Stamps:
    """Puts the time before each line of each stream: when its first byte was printed."""

    def __init__(self) -> None:
        self._at_start = {"stdout": True, "stderr": True, "emit": True}

    def put(self, piece: "Piece") -> bytes:
        """The piece with its stamps."""
        stamp = f"{format.clock(piece.at)} ".encode()
        started, ends = self._at_start[piece.stream], piece.data.endswith(b"\n")
        self._at_start[piece.stream] = ends
        body = piece.data[:-1] if ends else piece.data
        return (stamp if started else b"") + body.replace(b"\n", b"\n" + stamp) + (b"\n" if ends else b"")
