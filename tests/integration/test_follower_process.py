"""The follower as a process beside a hive that runs."""

from pathlib import Path

from services.follower import Snapshotter
from tests.system import system


async def test_it_says_how_far_its_snapshots_go(tmp_path: Path) -> None:
    async with system(tmp_path) as hive:
        await hive.plane()
        last = (await hive.entries())[-1][0].position
        assert await Snapshotter(tmp_path).follow() >= last
        assert list((tmp_path / "snapshots").glob("pool-*.snap"))
