"""What several files here need: a worker with its pool, an API with its client. A file that needs another kind has its own."""

from collections.abc import AsyncGenerator, Generator
from pathlib import Path

import pytest

from infra.database import Database
from tests.postgres_support import Server, own_database, running_server
from tests.web_support import Api, api
from tests.worker_support import Rig, rigged
from web.client import AsyncHive


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncGenerator[Rig]:
    """A worker that is not started yet, and its pool."""
    async with rigged(tmp_path) as rig:
        yield rig


@pytest.fixture
async def at_work(rig: Rig) -> Rig:
    """A worker with an agent that runs in this loop."""
    await rig.start()
    return rig


@pytest.fixture
async def hive(tmp_path: Path) -> AsyncGenerator[Api]:
    """An API that is served, without tables."""
    async with api(tmp_path) as served:
        yield served


@pytest.fixture
async def client(hive: Api) -> AsyncGenerator[AsyncHive]:
    """A client of the API."""
    async with AsyncHive(hive.url, hive.key) as made:
        yield made


@pytest.fixture(scope="module")
def server() -> Generator[Server]:
    """A Postgres of this file's own, which its tests may kill."""
    with running_server() as made:
        yield made


@pytest.fixture
async def database(server: Server) -> AsyncGenerator[Database]:
    """An empty database of this test's own."""
    async with own_database(server) as own:
        yield own
